"""A `DecoderSpec` and its `WeightMap` as the native decoder takes them.

Knows nothing about steps or requests. Invariant: what the core cannot run is refused by the name of its field before
memory is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from penstock import _native
from penstock.backend.cpu.rope import RopeTable
from penstock.core import ModelFileError, limits
from penstock.formats import RawTensor, Storage, num_bytes
from penstock.model import (
    Activation,
    Attention,
    DecoderSpec,
    Layer,
    Mlp,
    QkNorm,
    Rope,
    WeightMap,
    WeightRef,
    kv_groups,
    places,
)

_F32 = npt.NDArray[np.float32]
_ACTIVATIONS = {Activation.SILU: 0, Activation.GELU_TANH: 1, Activation.GELU: 2, Activation.SWIGLU_OAI: 3}


def check_spec(spec: DecoderSpec) -> None:
    """Passes when the core can run the spec.

    Raises:
        ModelFileError: naming the layer and the field that it cannot.
    """
    checked: set[Layer] = set()
    for index, layer in enumerate(spec.layers):
        if layer not in checked:
            _check_attention(f"layers.{index}.attention", layer.attention)
            _check_mlp(f"layers.{index}.mlp", layer.mlp)
            checked.add(layer)


def _check_attention(at: str, attention: Attention) -> None:
    if attention.num_kv_heads < 1 or attention.num_heads < 1 or attention.num_heads % attention.num_kv_heads:
        raise ModelFileError(f"{at}: {attention.num_heads} heads are no multiple of {attention.num_kv_heads} kv heads.")
    if attention.rope is not None and attention.rope.dims > attention.head_dim:
        raise ModelFileError(f"{at}.rope.dims is {attention.rope.dims}; a head has {attention.head_dim}.")
    if attention.window is not None and attention.window < 1:
        raise ModelFileError(f"{at}.window is {attention.window}; it must be at least 1.")
    for name in ("softcap", "qkv_clip"):
        _check_limit(f"{at}.{name}", getattr(attention, name))


def _check_mlp(at: str, mlp: Mlp) -> None:
    _check_limit(f"{at}.clamp", mlp.clamp)
    if not mlp.num_experts:
        for name in ("experts_per_token", "shared_intermediate", "shared_gate", "router_bias", "norm_topk"):
            if getattr(mlp, name):
                raise ModelFileError(f"{at}.{name} is {getattr(mlp, name)}; the layer has no experts.")
        return
    if not 0 < mlp.num_experts <= limits.MAX_EXPERTS:
        raise ModelFileError(f"{at}.num_experts is {mlp.num_experts:,}; 1 to {limits.MAX_EXPERTS:,} can be run.")
    if not 0 < mlp.experts_per_token <= mlp.num_experts:
        raise ModelFileError(f"{at}.experts_per_token is {mlp.experts_per_token}; there are {mlp.num_experts} experts.")
    if mlp.shared_intermediate < 0:
        raise ModelFileError(f"{at}.shared_intermediate is {mlp.shared_intermediate}; it must be 0 or more.")
    if mlp.shared_gate and not mlp.shared_intermediate:
        raise ModelFileError(f"{at}.shared_gate is set; there is no shared expert.")


def _check_limit(at: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ModelFileError(f"{at} is {value}; it must be 0 or a positive number.")


def slice_rows(ref: WeightRef) -> RawTensor:
    """The stored rows that a reference names, a view of the tensor's bytes; its permutation is not applied.

    Raises:
        ModelFileError: the rows lie outside the tensor.
    """
    tensor = ref.tensor if ref.load is None else ref.load()
    total = tensor.shape[0]
    count = total - ref.first if ref.count < 0 else ref.count
    if ref.first < 0 or count < 1 or ref.first + count > total:
        raise ModelFileError(f"{tensor.name}: rows [{ref.first}, {ref.first + count}) of {total} do not exist.")
    row = num_bytes(tensor.storage, (1, *tensor.shape[1:]))
    data = tensor.data[ref.first * row : (ref.first + count) * row]
    return replace(tensor, shape=(count, *tensor.shape[1:]), data=data)


def read_vector(ref: WeightRef, offset: float = 0.0) -> _F32:
    """A norm, bias or sink as floats, both offsets added.  # [n] f32.

    Raises:
        ModelFileError: it is not stored as floats, or is no vector.
    """
    tensor = slice_rows(ref)
    if len(tensor.shape) != 1:
        raise ModelFileError(f"{tensor.name}: shape {tensor.shape} where a vector is needed.")
    raw = tensor.data
    if tensor.storage is Storage.F32:
        values = raw.view(np.float32)
    elif tensor.storage is Storage.F16:
        values = raw.view(np.float16).astype(np.float32)
    elif tensor.storage is Storage.BF16:
        values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        raise ModelFileError(f"{tensor.name}: {tensor.storage.value} where a vector of floats is needed.")
    if ref.rows is not None:
        values = values[ref.rows]
    total = np.float32(ref.offset + offset)
    return np.ascontiguousarray(values + total if total else values)


class Builder:
    """Fills a native model place by place; what was packed is shared between places that name the same tensor.

    Attributes:
        ropes: the model's rotary tables, to be filled as far as the KV reaches.
    """

    def __init__(self, spec: DecoderSpec, weights: WeightMap, max_model_tokens: int) -> None:
        self._spec = spec
        self._refs: Mapping[str, WeightRef] = weights.tensors
        self._max_model_tokens = max_model_tokens
        self._rope_ids: dict[Rope, int] = {}
        self.ropes: list[RopeTable] = []
        self._native = _native.ModelBuilder()

    def build(self, matrices: Mapping[str, _native.Matrix]) -> _native.ModelBuilder:
        """The native model. `matrices`: place → packed matrix, every projection and the embedding.

        Raises:
            ModelFileError: a place is missing or has another shape than the spec says.
        """
        spec = self._spec
        facts = _native.ModelFacts()
        facts.hidden, facts.vocab, facts.max_tokens = spec.hidden, spec.vocab, self._max_model_tokens
        facts.norm_eps, facts.embed_scale = spec.norm_eps, spec.embed_scale
        facts.residual_scale = spec.residual_scale
        facts.logit_scale, facts.logit_softcap = spec.logit_scale, spec.logit_softcap
        self._native.set_facts(facts)
        group_of = {index: g for g, group in enumerate(kv_groups(spec)) for index in group.layers}
        for index, layer in enumerate(spec.layers):
            layer_facts = self._layer_facts(layer)
            layer_facts.kv_group = group_of[index]
            self._native.add_layer(layer_facts)
        self._native.set_matrix("embed", -1, matrices["embed"])
        self._native.set_matrix("head", -1, matrices["embed" if spec.tied_head else "head"])
        for place, shape in places(spec).items():
            index, inner = _split(place)
            if len(shape) == 1:
                self._vector(place, index, inner, shape[0])
            elif index >= 0:
                self._native.set_matrix(inner, index, matrices[place])
        return self._native

    def _layer_facts(self, layer: Layer) -> _native.LayerFacts:
        attention, facts = layer.attention, _native.LayerFacts()
        facts.num_heads, facts.num_kv_heads = attention.num_heads, attention.num_kv_heads
        facts.head_dim, facts.intermediate = attention.head_dim, layer.mlp.intermediate
        facts.window, facts.scale, facts.softcap = attention.window or 0, attention.scale, attention.softcap
        facts.activation, facts.clamp = _ACTIVATIONS[layer.mlp.activation], layer.mlp.clamp
        facts.qkv_clip, facts.qk_norm_all = attention.qkv_clip, attention.qk_norm is QkNorm.ALL
        facts.num_experts, facts.experts_per_token = layer.mlp.num_experts, layer.mlp.experts_per_token
        facts.norm_topk, facts.shared_intermediate = layer.mlp.norm_topk, layer.mlp.shared_intermediate
        facts.rope = -1 if attention.rope is None else self._rope(attention.rope)
        return facts

    def _rope(self, rope: Rope) -> int:
        if rope not in self._rope_ids:
            table = RopeTable(rope, self._max_model_tokens)
            self._rope_ids[rope] = self._native.add_rope(table.cos, table.sin, rope.interleaved)
            self.ropes.append(table)
        return self._rope_ids[rope]

    def _vector(self, place: str, layer: int, inner: str, count: int) -> None:
        offset = self._spec.norm_offset if inner.endswith("norm") else 0.0
        values = read_vector(find(self._refs, place), offset)
        if len(values) != count:
            raise ModelFileError(f"{place} has {len(values)} values; the model needs {count}.")
        self._native.set_vector(inner, layer, values, count)


def _split(place: str) -> tuple[int, str]:
    """The layer's index, -1 outside of the layers, and the place within."""
    if not place.startswith("layers."):
        return -1, place
    _, index, inner = place.split(".", 2)
    return int(index), inner


def find(refs: Mapping[str, WeightRef], place: str) -> WeightRef:
    """The reference that fills a place.

    Raises:
        ModelFileError: there is none.
    """
    ref = refs.get(place)
    if ref is None:
        raise ModelFileError(f"no tensor for {place}.", hint="the checkpoint is incomplete or of another architecture.")
    return ref


def matrix_places(spec: DecoderSpec) -> dict[str, tuple[int, int]]:
    """Every place that holds a matrix, and its (outputs, inputs)."""
    return {place: (shape[0], shape[1]) for place, shape in places(spec).items() if len(shape) == 2}
