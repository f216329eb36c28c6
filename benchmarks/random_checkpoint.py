"""Writes random-weight checkpoints of a real model's shape: safetensors (f32, bf16) and GGUF (BF16, Q8_0, Q4_0).

The weights mean nothing; sizes, shapes, storage kinds and vocabulary are those of the real model, so start-up and speed
can be measured without a download. Everything goes below build/bench, which git ignores.

    python benchmarks/random_checkpoint.py --kinds bf16,q8_0,q4_0
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = ROOT.parent / "shared/data/tokenizers/llama3_tiktoken.model.gz"
NAME = "Qwen3-0.6B"
# What its config.json says.
SHAPE = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GGUF_KINDS = {
    "gguf-bf16": GGMLQuantizationType.BF16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
}


def tensors(config: dict[str, Any], layers: int | None = None) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(safetensors name, GGUF name, shape) of every weight of a Qwen3-shaped model."""
    hidden, ffn, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", "token_embd.weight", (config["vocab_size"], hidden)
    yield "model.norm.weight", "output_norm.weight", (hidden,)
    for i in range(layers or config["num_hidden_layers"]):
        a, g = f"model.layers.{i}", f"blk.{i}"
        yield f"{a}.input_layernorm.weight", f"{g}.attn_norm.weight", (hidden,)
        yield f"{a}.post_attention_layernorm.weight", f"{g}.ffn_norm.weight", (hidden,)
        yield f"{a}.self_attn.q_proj.weight", f"{g}.attn_q.weight", (q, hidden)
        yield f"{a}.self_attn.k_proj.weight", f"{g}.attn_k.weight", (kv, hidden)
        yield f"{a}.self_attn.v_proj.weight", f"{g}.attn_v.weight", (kv, hidden)
        yield f"{a}.self_attn.o_proj.weight", f"{g}.attn_output.weight", (hidden, q)
        yield f"{a}.self_attn.q_norm.weight", f"{g}.attn_q_norm.weight", (head,)
        yield f"{a}.self_attn.k_norm.weight", f"{g}.attn_k_norm.weight", (head,)
        yield f"{a}.mlp.gate_proj.weight", f"{g}.ffn_gate.weight", (ffn, hidden)
        yield f"{a}.mlp.up_proj.weight", f"{g}.ffn_up.weight", (ffn, hidden)
        yield f"{a}.mlp.down_proj.weight", f"{g}.ffn_down.weight", (hidden, ffn)


def values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Weights whose activations stay in a sane range: norms are one, matrices N(0, 1/K)."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(shape[1] ** -0.5)


def vocabulary(size: int) -> list[bytes]:
    """`size` distinct byte strings: a real 128,000-token vocabulary where it is at hand, made-up ones behind it."""
    found: list[bytes] = []
    if VOCABULARY.exists():
        with gzip.open(VOCABULARY, "rt") as file:
            found = [base64.b64decode(line.split()[0]) for line in file if line.strip()][:size]
    else:
        found = [bytes([i]) for i in range(256)]
    return found + [f"<filler {i}>".encode() for i in range(size - len(found))]


def byte_letters() -> dict[int, str]:
    """The byte → printable letter table of byte-level BPE (GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def bpe(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges): each token of two or more bytes is merged from its best-ranked split."""
    letters, tokens = byte_letters(), vocabulary(size)
    rank = {token: i for i, token in enumerate(tokens)}
    names = {token: "".join(letters[b] for b in token) for token in tokens}
    merges = []
    for token in tokens:
        if len(token) < 2 or token.startswith(b"<filler"):
            continue
        splits = [
            (rank[token[:i]], rank[token[i:]], i)
            for i in range(1, len(token))
            if token[:i] in rank and token[i:] in rank
        ]
        if splits:
            at = min(splits, key=lambda s: max(s[0], s[1]))[2]
            merges.append((names[token[:at]], names[token[at:]]))
    return {names[token]: i for i, token in enumerate(tokens)}, merges


def write_tokenizer(folder: Path, size: int) -> None:
    """tokenizer.json (byte-level BPE), tokenizer_config.json and generation_config.json."""
    vocab, merges = bpe(size)
    end = max(vocab.values())
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [],
                "normalizer": None,
                "pre_tokenizer": {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": True,
                },
                "post_processor": None,
                "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
                "model": {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": False},
            }
        )
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))


def write_safetensors(folder: Path, config: dict[str, Any], dtype: str, seed: int = 0) -> Path:
    """A Hugging Face folder of that dtype ("f32" or "bf16")."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    kind = np.float32 if dtype == "f32" else ml_dtypes.bfloat16
    save_file(
        {name: values(rng, shape).astype(kind) for name, _, shape in tensors(config)}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(
        json.dumps({**config, "torch_dtype": {"f32": "float32", "bf16": "bfloat16"}[dtype]})
    )
    write_tokenizer(folder, config["vocab_size"])
    return folder


def gguf_writer(path: Path, config: dict[str, Any], use_temp_file: bool = False) -> GGUFWriter:
    """A writer with the config's metadata and a gpt-2 style tokenizer, before its tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "qwen3", use_temp_file=use_temp_file)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(float(config["rope_theta"]))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    vocab, merges = bpe(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(list(vocab))
    writer.add_token_types([1] * len(vocab))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(len(vocab) - 1)
    return writer


def finish(writer: GGUFWriter) -> None:
    """Writes the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf(path: Path, config: dict[str, Any], kind: GGMLQuantizationType, seed: int = 0) -> Path:
    """One GGUF file with a gpt-2 style tokenizer."""
    writer = gguf_writer(path, config)
    rng = np.random.default_rng(seed)
    for _, name, shape in tensors(config):
        data = values(rng, shape)
        if len(shape) == 1:
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, quants.quantize(data, kind), raw_dtype=kind)
    finish(writer)
    return path


def checkpoint(kind: str, config_path: Path | None = None) -> Path:
    """The path of a checkpoint of that kind (f32, bf16, gguf-bf16, q8_0, q4_0), written once; Qwen3-0.6B's shape."""
    config = SHAPE if config_path is None else json.loads(config_path.read_text())
    stem = NAME if config_path is None else config_path.stem.split("--")[-1]
    if kind in GGUF_KINDS:
        path = ROOT / "build/bench" / f"{stem}-{kind}.gguf"
        return path if path.exists() else write_gguf(path, config, GGUF_KINDS[kind])
    folder = ROOT / "build/bench" / f"{stem}-{kind}"
    return folder if (folder / "generation_config.json").exists() else write_safetensors(folder, config, kind)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="config.json of another model of that family")
    parser.add_argument("--kinds", default="f32,bf16,q8_0,q4_0")
    arguments = parser.parse_args()
    for wanted in arguments.kinds.split(","):
        print(checkpoint(wanted, arguments.config))
