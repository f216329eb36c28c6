"""The rotary part of a GGUF file: its keys, and the tables of divisors that stand among its tensors.

Knows nothing about architectures. Invariant: a rule, a parameter or a table that would change the angles is in the
result or refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from penstock.core import ModelFileError
from penstock.formats import RawTensor, Storage
from penstock.model.gguf_keys import Keys
from penstock.model.spec import DecoderSpec, Layer, Rope, RopeKind

_FREQS, _LONG, _SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
_DEFAULT_THETA = 10000.0
_ROUNDING = 1e-6  # of a number that was stored as float32


def rope_parameters(keys: Keys, config: Mapping[str, Any], tensors: Mapping[str, RawTensor]) -> dict[str, Any]:
    """`rope_parameters` of a config, in Hugging Face's newer spelling.

    Raises:
        ModelFileError: an unknown rule, a missing parameter or a table of another shape than the head's.
    """
    head_dim = config["head_dim"]
    dims = keys.integer("rope.dimension_count", head_dim, high=head_dim)
    found: dict[str, Any] = {"rope_theta": keys.positive("rope.freq_base", _DEFAULT_THETA)}
    if dims != head_dim:
        found["partial_rotary_factor"] = _share(dims, head_dim)
    if _LONG in tensors or _SHORT in tensors:
        return found | _long_rope(keys, config, tensors, dims)
    # A factor without a type is linear; its name before there were types was another.
    factor = keys.number("rope.scale_linear") or keys.number("rope.scaling.factor") or 0.0
    kind = keys.text("rope.scaling.type", "linear" if factor else "none")
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return found | {"rope_type": "default"}
    if kind == "linear":
        return found | {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return found | _yarn(keys)
    raise keys.error(
        "rope.scaling.type", f"is {kind[:60]!r}; none, linear and yarn are known, longrope by its tensors."
    )


def _share(dims: int, head_dim: int) -> float:
    """The fraction of a head that rotates, such that cutting off the product with the head's size gives `dims`."""
    share = dims / head_dim
    while int(share * head_dim) < dims:
        share = math.nextafter(share, 2.0)
    return share


def _yarn(keys: Keys) -> dict[str, Any]:
    found: dict[str, Any] = {"rope_type": "yarn", "factor": keys.positive("rope.scaling.factor")}
    original = keys.optional_integer("rope.scaling.original_context_length", high=2**31)
    if original is not None:
        found["original_max_position_embeddings"] = original
    for name in ("beta_fast", "beta_slow"):
        if (value := keys.number(f"rope.scaling.yarn_{name}")) is not None:
            found[name] = value
    return found


def _long_rope(keys: Keys, config: Mapping[str, Any], tensors: Mapping[str, RawTensor], dims: int) -> dict[str, Any]:
    original = keys.integer("rope.scaling.original_context_length", high=2**31)
    found: dict[str, Any] = {"rope_type": "longrope", "original_max_position_embeddings": original}
    for name, tensor in (("long_factor", _LONG), ("short_factor", _SHORT)):
        if tensor not in tensors:
            raise keys.source.error(f"tensor {tensor} is missing.")
        found[name] = list(_divisors(tensors[tensor], dims, keys.source.source))
    factor = config["max_position_embeddings"] / original
    implied = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    stored = keys.positive("rope.scaling.attn_factor", implied)
    if abs(stored - implied) > _ROUNDING * implied:
        found["attention_factor"] = stored
    return found


def with_divisors(spec: DecoderSpec, tensors: Mapping[str, RawTensor], source: str) -> DecoderSpec:
    """The spec with one divisor a frequency where the file has such a table: it stands in place of Llama 3's rule.

    Raises:
        ModelFileError: beside another scaling, or of another shape, kind or range.
    """
    if _FREQS not in tensors:
        return spec
    return replace(
        spec, layers=tuple(_divided(layer, tensors[_FREQS], spec.max_tokens, source) for layer in spec.layers)
    )


def _divided(layer: Layer, tensor: RawTensor, max_tokens: int, source: str) -> Layer:
    rope = layer.attention.rope
    if rope is None:
        return layer
    if rope.kind is not RopeKind.DEFAULT:
        raise ModelFileError(f"{source}: {_FREQS} beside another rope scaling.")
    factors = _divisors(tensor, rope.dims, source)
    changed: Rope = replace(
        rope,
        kind=RopeKind.LONGROPE,
        scaling=(("attention_factor", 1.0), ("factor", 1.0)),
        short_factors=factors,
        long_factors=factors,
        original_tokens=max_tokens,
    )
    return replace(layer, attention=replace(layer.attention, rope=changed))


def _divisors(tensor: RawTensor, dims: int, source: str) -> tuple[float, ...]:
    """The table's values.  # [dims / 2] f32."""
    if tensor.storage is not Storage.F32 or tensor.shape != (dims // 2,):
        raise ModelFileError(
            f"{source}: {tensor.name} is {tensor.storage.value} {tensor.shape}; F32 ({dims // 2},) is needed."
        )
    values = tensor.data.view(np.float32)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ModelFileError(f"{source}: {tensor.name} must hold finite values above zero.")
    return tuple(float(value) for value in values)
