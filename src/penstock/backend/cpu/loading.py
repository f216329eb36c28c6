"""A `DecoderSpec` and its `WeightMap` as the native decoder takes them.

Knows nothing about steps or requests. Invariant: a native model that is returned has every place that its spec
implies, in the spec's shape.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock import _native
from penstock.core import ModelFileError
from penstock.model import (
    Activation,
    DecoderSpec,
    Layer,
    QkNorm,
    Rope,
    RopeTable,
    WeightMap,
    WeightRef,
    find,
    kv_groups,
    places,
    read_vector,
)

_ACTIVATIONS = {Activation.SILU: 0, Activation.GELU_TANH: 1, Activation.GELU: 2, Activation.SWIGLU_OAI: 3}


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
