"""The zoo's transformers models as GGUF files: gguf-py's writer and names, the format's conventions applied here.

Nothing of penstock is used, so that its reader is compared with a second opinion. Each convention can be left out by
name, for controls.
"""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from tests.model.zoo import ENTRIES, make_zoo_model
from transformers import PreTrainedModel

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "granite": "granite",
    "smollm3": "smollm3",
    "gpt_oss": "gpt-oss",
}
PERMUTED = ("llama", "granite", "smollm3")
# What the format has no keys for is as the published models have it.
FORCED: dict[str, dict[str, object]] = {
    "gemma2": {"query_pre_attn_scalar": 32},
    "gemma3_text": {"query_pre_attn_scalar": 32},
    "smollm3": {"no_rope_layer_interval": 4, "num_hidden_layers": 5},
}
# The family that no architecture of the format stands for.
EXPRESSIBLE = tuple(name for name in ENTRIES if name != "ministral")


def make_model(name: str, wide: bool = False) -> PreTrainedModel:
    return make_zoo_model(name, wide, **FORCED.get(name, {}))


Tensors = dict[str, np.ndarray]


def write(
    model: PreTrainedModel,
    path: Path,
    kind: str = "F32",
    without: str = "",
    change: Callable[[Tensors], Tensors] = lambda tensors: tensors,
    shard_tensors: int = 0,
    **keys: object,
) -> Path:
    """One GGUF file, or (the path is the first one's) files of at most `shard_tensors` tensors each.

    `without` leaves out "permutation", "norms", "halves" or "factors"; `change` has the last word on tensors, `keys` on
    metadata.
    """
    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    writer = GGUFWriter(path, architecture, split_max_tensors=shard_tensors)
    for key, value in (metadata(config, architecture) | {k.replace("__", "."): v for k, v in keys.items()}).items():
        add_key(writer, key if key.startswith("tokenizer.") else f"{architecture}.{key}", value)
    for name, values in change(tensors(model, architecture, without)).items():
        add_tensor(writer, name, values, GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))[0] if shard_tensors else path


def add_key(writer: GGUFWriter, key: str, value: object) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)


def add_tensor(writer: GGUFWriter, name: str, values: np.ndarray, kind: GGMLQuantizationType) -> None:
    """Vectors and routers stay float32, as converters leave them."""
    if kind == GGMLQuantizationType.F32 or values.ndim == 1 or name.endswith(".bias") or "ffn_gate_inp" in name:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def metadata(config, architecture: str) -> dict[str, object]:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found: dict[str, object] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "vocab_size": config.vocab_size,
        "tokenizer.ggml.tokens": [f"t{index}" for index in range(config.vocab_size)],
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.bos_token_id": 1,
    }
    return found | rope(config, architecture, head_dim) | experts(config) | own(config, architecture)


def rope(config, architecture: str, head_dim: int) -> dict[str, object]:
    rules = config.rope_parameters
    rules = rules.get("full_attention", rules)
    found: dict[str, object] = {}
    if architecture not in ("gemma", "gemma2"):  # whose base is the format's default
        found["rope.freq_base"] = float(rules["rope_theta"])
    if architecture in ("llama", "granite", "smollm3", "phi3"):
        found["rope.dimension_count"] = int(head_dim * rules.get("partial_rotary_factor", 1.0))
    if rules["rope_type"] in ("linear", "yarn"):
        found |= {"rope.scaling.type": rules["rope_type"], "rope.scaling.factor": float(rules["factor"])}
    if rules["rope_type"] == "yarn":
        found["rope.scaling.original_context_length"] = rules["original_max_position_embeddings"]
    if rules["rope_type"] == "longrope":
        original = rules["original_max_position_embeddings"]
        scale = config.max_position_embeddings / original
        found["rope.scaling.original_context_length"] = original
        found["rope.scaling.attn_factor"] = float(np.sqrt(1 + np.log(scale) / np.log(original)))
    return found


def experts(config) -> dict[str, object]:
    count = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if not count:
        return {}
    found: dict[str, object] = {"expert_count": count, "expert_used_count": config.num_experts_per_tok}
    if config.model_type in ("qwen2_moe", "qwen3_moe"):
        found["expert_feed_forward_length"] = config.moe_intermediate_size
    if config.model_type == "qwen2_moe":
        found["expert_shared_feed_forward_length"] = config.shared_expert_intermediate_size
    if config.model_type == "gpt_oss":
        found["expert_feed_forward_length"] = config.intermediate_size
    return found


def own(config, architecture: str) -> dict[str, object]:
    """Keys of one architecture alone."""
    if architecture in ("gemma2", "gemma3", "gpt-oss"):
        found: dict[str, object] = {"attention.sliding_window": config.sliding_window}
        if architecture == "gemma2":
            found["attn_logit_softcapping"] = float(config.attn_logit_softcapping)
            found["final_logit_softcapping"] = float(config.final_logit_softcapping)
        return found
    if architecture in ("phi3", "llama"):
        return {"attention.sliding_window": getattr(config, "sliding_window", None) or 0}
    if getattr(config, "use_sliding_window", False):
        windowed = [kind == "sliding_attention" for kind in config.layer_types]
        return {"attention.sliding_window": config.sliding_window, "attention.sliding_window_pattern": windowed}
    if architecture == "olmoe":
        return {"attention.clamp_kqv": float(config.clip_qkv)}
    if architecture == "granite":
        return {
            "attention.scale": float(config.attention_multiplier),
            "embedding_scale": float(config.embedding_multiplier),
            "residual_scale": float(config.residual_multiplier),
            "logit_scale": float(config.logits_scaling),
        }
    return {}


def tensors(model: PreTrainedModel, architecture: str, without: str) -> dict[str, np.ndarray]:
    config = model.config
    index = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(index, config.num_hidden_layers)
    found: dict[str, np.ndarray] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        if ".experts." in name:
            found |= expert_tensors(name, values, config.model_type, names, without)
            continue
        if architecture in PERMUTED and (".q_proj." in name or ".k_proj." in name) and without != "permutation":
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            values = interleave(values, heads)
        if architecture.startswith("gemma") and name.endswith("norm.weight") and without != "norms":
            values = values + np.float32(1)
        if name.endswith("gate_up_proj.weight") and without == "halves":
            values = np.roll(values, values.shape[0] // 2, axis=0)
        if name.endswith("shared_expert_gate.weight"):
            values = values[0]
        name = name + ".weight" if name.endswith("sinks") else name
        found[names.get_name(name, try_suffixes=(".weight", ".bias"))] = np.ascontiguousarray(values)
    return found | factor_tables(config, without)


def expert_tensors(name: str, values: np.ndarray, model_type: str, names, without: str) -> dict[str, np.ndarray]:
    """Stacks with one matrix an expert, outputs first, gate and up apart."""
    base, part = name.split(".experts.")
    suffix = ".bias" if part.endswith("_bias") else ".weight"
    part = part.removesuffix("_bias")
    if model_type == "gpt_oss" and suffix == ".weight":
        values = values.swapaxes(1, 2)
    if part == "gate_up_proj":
        half = values.shape[1] // 2
        apart = model_type != "gpt_oss"
        pieces = (values[:, :half], values[:, half:]) if apart else (values[:, ::2], values[:, 1::2])
        pieces = pieces[::-1] if without == "halves" else pieces
        parts = dict(zip(("gate_proj", "up_proj"), pieces, strict=True))
    else:
        parts = {"down_proj": values}
    return {
        names.get_name(f"{base}.experts.{key}") + suffix: np.ascontiguousarray(value) for key, value in parts.items()
    }


def factor_tables(config, without: str) -> dict[str, np.ndarray]:
    """Divisors of the rotary frequencies, for the rules that the format has no keys for."""
    rules = config.rope_parameters
    if without == "factors" or rules.get("rope_type") not in ("llama3", "longrope"):
        return {}
    if rules["rope_type"] == "longrope":
        return {
            f"rope_factors_{length}.weight": np.array(rules[f"{length}_factor"], np.float32)
            for length in ("long", "short")
        }
    head_dim = config.hidden_size // config.num_attention_heads
    frequencies = 1.0 / rules["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    turns = rules["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high = rules["low_freq_factor"], rules["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return {"rope_freqs.weight": (1 / ((1 - smooth) / rules["factor"] + smooth)).astype(np.float32)}


def interleave(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k with rotary pairs side by side."""
    pairs = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def in_bfloat16(model: PreTrainedModel) -> PreTrainedModel:
    return model.to(torch.bfloat16)
