"""A `DecoderSpec` and its `WeightMap` as the native decoder takes them.

Knows nothing about steps or requests. Invariant: what the core cannot run is refused by the name of its field before
memory is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from penstock import _native
from penstock.backend.cpu.rope import RopeTable
from penstock.core import ModelFileError
from penstock.formats import RawTensor, Storage, num_bytes
from penstock.model import Activation, DecoderSpec, Layer, Rope, WeightMap, WeightRef

_F32 = npt.NDArray[np.float32]
_ACTIVATIONS = {Activation.SILU: 0, Activation.GELU_TANH: 1, Activation.GELU: 2}


def check_spec(spec: DecoderSpec) -> None:
    """Passes when the core can run the spec.

    Raises:
        ModelFileError: naming the layer and the field that it cannot.
    """
    for index, layer in enumerate(spec.layers):
        for name in ("num_experts", "shared_intermediate"):
            if getattr(layer.mlp, name):
                raise ModelFileError(
                    f"layers.{index}.mlp.{name} is {getattr(layer.mlp, name)}; the CPU core runs dense layers only.",
                    hint="a mixture of experts needs another backend.",
                )
        attention = layer.attention
        if attention.num_kv_heads < 1 or attention.num_heads % attention.num_kv_heads:
            raise ModelFileError(
                f"layers.{index}: {attention.num_heads} heads are no multiple of {attention.num_kv_heads} kv heads."
            )
        if attention.rope is not None and attention.rope.dims > attention.head_dim:
            raise ModelFileError(
                f"layers.{index}.attention.rope.dims is {attention.rope.dims}; a head has {attention.head_dim}."
            )


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
        for layer in spec.layers:
            self._native.add_layer(self._layer_facts(layer))
        self._vector("final_norm", -1, spec.hidden, spec.norm_offset)
        self._native.set_matrix("embed", -1, matrices["embed"])
        self._native.set_matrix("head", -1, matrices["embed" if spec.tied_head else "head"])
        if spec.head_bias:
            self._vector("head.bias", -1, spec.vocab)
        for index, layer in enumerate(spec.layers):
            for place in ("q", "k", "v", "o", "gate", "up", "down"):
                self._native.set_matrix(place, index, matrices[f"layers.{index}.{place}"])
            self._layer_vectors(index, layer)
        return self._native

    def _layer_facts(self, layer: Layer) -> _native.LayerFacts:
        attention, facts = layer.attention, _native.LayerFacts()
        facts.num_heads, facts.num_kv_heads = attention.num_heads, attention.num_kv_heads
        facts.head_dim, facts.intermediate = attention.head_dim, layer.mlp.intermediate
        facts.window, facts.scale, facts.softcap = attention.window or 0, attention.scale, attention.softcap
        facts.activation, facts.clamp = _ACTIVATIONS[layer.mlp.activation], layer.mlp.clamp
        facts.rope = -1 if attention.rope is None else self._rope(attention.rope)
        return facts

    def _rope(self, rope: Rope) -> int:
        if rope not in self._rope_ids:
            table = RopeTable(rope, self._max_model_tokens)
            self._rope_ids[rope] = self._native.add_rope(table.cos, table.sin, rope.interleaved)
            self.ropes.append(table)
        return self._rope_ids[rope]

    def _layer_vectors(self, index: int, layer: Layer) -> None:
        spec, attention, at = self._spec, layer.attention, f"layers.{index}."
        norms = (("attn_norm", "mlp_norm") if layer.pre_norms else ()) + (
            ("attn_post_norm", "mlp_post_norm") if layer.post_norms else ()
        )
        for name in norms:
            self._vector(at + name, index, spec.hidden, spec.norm_offset)
        if attention.qk_norm:
            for name in ("q_norm", "k_norm"):
                self._vector(at + name, index, attention.head_dim, spec.norm_offset)
        if attention.sinks:
            self._vector(at + "sinks", index, attention.num_heads)
        q, kv = attention.num_heads * attention.head_dim, attention.num_kv_heads * attention.head_dim
        intermediate, mlp = layer.mlp.intermediate, layer.mlp.bias
        for name, wanted, count in (
            ("q", attention.q_bias, q),
            ("k", attention.k_bias, kv),
            ("v", attention.v_bias, kv),
            ("o", attention.o_bias, spec.hidden),
            ("gate", mlp, intermediate),
            ("up", mlp, intermediate),
            ("down", mlp, spec.hidden),
        ):
            if wanted:
                self._vector(f"{at}{name}.bias", index, count)

    def _vector(self, place: str, layer: int, count: int, offset: float = 0.0) -> None:
        values = read_vector(find(self._refs, place), offset)
        if len(values) != count:
            raise ModelFileError(f"{place} has {len(values)} values; the model needs {count}.")
        self._native.set_vector(place.removeprefix(f"layers.{layer}."), layer, values, count)


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
    found = {"embed": (spec.vocab, spec.hidden)}
    if not spec.tied_head:
        found["head"] = (spec.vocab, spec.hidden)
    for index, layer in enumerate(spec.layers):
        attention, at = layer.attention, f"layers.{index}."
        q, kv = attention.num_heads * attention.head_dim, attention.num_kv_heads * attention.head_dim
        found |= {at + "q": (q, spec.hidden), at + "k": (kv, spec.hidden), at + "v": (kv, spec.hidden)}
        found |= {at + "o": (spec.hidden, q), at + "down": (spec.hidden, layer.mlp.intermediate)}
        found |= {at + name: (layer.mlp.intermediate, spec.hidden) for name in ("gate", "up")}
    return found
