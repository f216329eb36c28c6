"""A GGUF model's metadata as the config fields that its family reads.

Knows nothing about bytes in files. Invariant: metadata that would change the answer is translated or refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from penstock.core import ModelFileError, limits
from penstock.formats import RawTensor, Storage
from penstock.model.dense import Family
from penstock.model.families import gguf_family, read_spec
from penstock.model.fields import Fields, shown
from penstock.model.gguf_file import GgufFile, read_gguf
from penstock.model.spec import DecoderSpec, Rope, RopeKind
from penstock.model.tensor_file import TensorFile, merge

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII)
_RENAMED = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
    "expert_count": "num_local_experts",
    "attention.scale": "attention_multiplier",
    "logit_scale": "logit_scale",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_ROPE_FREQS = "rope_freqs.weight"


@dataclass(frozen=True, slots=True)
class GgufModel:
    """One model of one or more GGUF files, before its tensors are assigned."""

    family: Family
    spec: DecoderSpec
    files: tuple[TensorFile, ...]
    metadata: Mapping[str, object]
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None


def read_gguf_model(path: Path) -> GgufModel:
    """The model in a GGUF file, or in the set of files that it is the first of.

    Raises:
        ModelFileError: a file is missing, corrupt, mismatched or of an unknown architecture.
    """
    opened = _open_all(path)
    metadata, files = opened[0].metadata, tuple(file.tensors for file in opened)
    source = Fields(metadata, str(path))
    architecture = source.text("general.architecture")
    family = gguf_family(architecture, str(path))
    tensors, foreign = merge(files)
    if foreign:
        name, kind = next(iter(foreign.items()))
        raise source.error(
            f"tensor {shown(name)} is {kind}, which is not served.",
            hint=f"served: {', '.join(storage.value for storage in Storage)}.",
        )
    config = Fields(_config(source, architecture, tensors), str(path))
    spec = read_spec(config, family)
    if _ROPE_FREQS in tensors:
        spec = _with_factors(spec, tensors[_ROPE_FREQS], str(path))
    # eot ends a turn where it differs from the end of text
    names = ("eos", "eot", "eom")
    ids = (source.optional_integer(f"tokenizer.ggml.{name}_token_id", 0, spec.vocab - 1) for name in names)
    return GgufModel(
        family=family,
        spec=spec,
        files=files,
        metadata=metadata,
        eos_token_ids=tuple(sorted({token for token in ids if token is not None})),
        bos_token_id=source.optional_integer("tokenizer.ggml.bos_token_id", 0, spec.vocab - 1),
    )


def _open_all(path: Path) -> tuple[GgufFile, ...]:
    first = read_gguf(path)
    count = Fields(first.metadata, str(path)).integer("split.count", 1, high=limits.MAX_SHARDS)
    if count == 1:
        return (first,)
    match = _SHARD.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise ModelFileError(f"{path}: one of {count} files, and not named ...-00001-of-{count:05d}.gguf.")
    if int(match["number"]) != 1:
        raise ModelFileError(f"{path}: file {int(match['number'])} of {count}.", hint="name the first one.")
    others = (path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf") for number in range(2, count + 1))
    return (first, *(read_gguf(other) for other in others))


def _config(source: Fields, architecture: str, tensors: Mapping[str, RawTensor]) -> dict[str, Any]:
    """The config fields that a family reads, in Hugging Face's names."""
    config: dict[str, Any] = {}
    for key, name in _RENAMED.items():
        value = source.get(f"{architecture}.{key}")
        if value is not None:
            config[name] = value
    config["vocab_size"] = _rows(source, tensors)
    config["tie_word_embeddings"] = "output.weight" not in tensors
    config["attention_bias"] = "blk.0.attn_q.bias" in tensors
    config["mlp_bias"] = "blk.0.ffn_gate.bias" in tensors
    _check_heads(source, architecture, config)
    _add_scaling(source, architecture, config)
    return config


def _rows(source: Fields, tensors: Mapping[str, RawTensor]) -> int:
    embed = tensors.get("token_embd.weight")
    if embed is None:
        raise source.error("tensor token_embd.weight is missing.")
    tokens = source.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Sequence) and len(tokens) > embed.shape[0]:
        raise source.error(f"{len(tokens)} tokens in the tokenizer, {embed.shape[0]} embedding rows.")
    return embed.shape[0]


def _check_heads(source: Fields, architecture: str, config: Mapping[str, Any]) -> None:
    """Passes when heads rotate whole, values are as wide as keys and no window is declared."""
    hidden, heads = (
        source.integer(f"{architecture}.embedding_length"),
        source.integer(f"{architecture}.attention.head_count"),
    )
    head_dim = source.integer(f"{architecture}.attention.key_length", max(hidden // heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        value = source.integer(f"{architecture}.{key}", head_dim)
        if value != head_dim:
            raise source.error(f"{architecture}.{key} is {value}; only {head_dim}, the head's size, is supported.")
    if source.integer(f"{architecture}.attention.sliding_window", 0, low=0, high=2**32):
        raise source.error(
            f"{architecture}.attention.sliding_window is not supported for {config.get('model_type', architecture)}."
        )


def _add_scaling(source: Fields, architecture: str, config: dict[str, Any]) -> None:
    at = f"{architecture}.rope.scaling."
    kind = source.text(f"{at}type", "none")
    if source.get(f"{architecture}.rope.scale_linear") is not None:
        kind, factor = "linear", source.positive(f"{architecture}.rope.scale_linear")
    elif kind != "none":
        factor = source.positive(f"{at}factor")
    if kind == "none":
        return
    if kind not in ("linear", "yarn"):
        raise source.error(f"unknown {at}type {shown(kind)}.", hint="known: none, linear, yarn.")
    config["rope_scaling"] = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        original = source.get(f"{at}original_context_length")
        config["rope_scaling"] |= {"original_max_position_embeddings": original}
        for key, name in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
            config["rope_scaling"][name] = source.optional_number(at + key)
        for key in ("attn_factor", "yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier"):
            if source.get(at + key) is not None:
                raise source.error(f"{at}{key} is not supported.")


def _with_factors(spec: DecoderSpec, tensor: RawTensor, source: str) -> DecoderSpec:
    """The spec with one divisor a frequency, which GGUF stores in place of Llama 3's rule."""
    rope = spec.layers[0].attention.rope
    if rope is None or rope.kind is not RopeKind.DEFAULT:
        raise ModelFileError(f"{source}: {_ROPE_FREQS} beside another rope scaling.")
    if tensor.storage is not Storage.F32 or tensor.shape != (rope.dims // 2,):
        raise ModelFileError(
            f"{source}: {_ROPE_FREQS} is {tensor.storage.value} {tensor.shape}; F32 ({rope.dims // 2},) is needed."
        )
    values = tensor.data.view(np.float32)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ModelFileError(f"{source}: {_ROPE_FREQS} must hold finite values above zero.")
    factors = tuple(float(value) for value in values)
    changed: Rope = replace(
        rope,
        kind=RopeKind.LONGROPE,
        scaling=(("attention_factor", 1.0), ("factor", 1.0)),
        short_factors=factors,
        long_factors=factors,
        original_tokens=spec.max_tokens,
    )
    layers = tuple(replace(layer, attention=replace(layer.attention, rope=changed)) for layer in spec.layers)
    return replace(spec, layers=layers)
