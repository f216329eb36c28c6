"""A trained network as a Hugging Face checkpoint folder: config, bf16 weights, tokenizer, chat template.

Knows nothing about training. Invariant: the folder loads in any Llama reader with no code of ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from penstock.train.network import Network
from penstock.train.shape import Shape
from penstock.train.tokenizer import BOS, END, EOS, tokenizer_config


def model_config(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.context_tokens,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        **_token_ids(tokenizer),
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of generation_config.json: sampling that suits a small text model."""
    return {**_token_ids(tokenizer), "do_sample": True, "temperature": 0.8, "top_p": 0.95}


def _token_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    stops = [tokenizer.token_to_id(EOS), tokenizer.token_to_id(END)]
    return {"bos_token_id": tokenizer.token_to_id(BOS), "eos_token_id": stops}


def export(network: Network, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, generation_config.json, model.safetensors (bf16) and the tokenizer's files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().to("cpu", torch.bfloat16).contiguous() for name, weight in network.weights.items()}
    partial = folder / "model.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(folder / "model.safetensors")
    tokenizer.encode_special_tokens = False
    tokenizer.save(str(folder / "tokenizer.json"))
    contents = {
        "config.json": model_config(network.shape, tokenizer),
        "generation_config.json": generation_config(tokenizer),
        "tokenizer_config.json": tokenizer_config(network.shape.context_tokens),
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
