"""Which layers of a decoder share one page table, because they look back equally far, and what a token costs in them.

Knows nothing about pages or backends. Invariant: every layer is in exactly one group, and a group's layers have
one window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from penstock.formats import Storage
from penstock.model.spec import Attention, DecoderSpec
from penstock.model.weights import WeightMap


class KvCost(NamedTuple):
    """Bytes of a stored key or value: of each of a head's values, and of the head's scale."""

    value_bytes: int
    scale_bytes: int

    def bytes_per_token(self, attention: Attention) -> int:
        """Bytes that one token keeps in a layer with such heads."""
        return 2 * attention.num_kv_heads * (self.value_bytes * attention.head_dim + self.scale_bytes)


KV_COSTS = {"f32": KvCost(4, 0), "bf16": KvCost(2, 0), "int8": KvCost(1, 4)}


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers of one KV group.

    Attributes:
        name: "full", or "window-" and its tokens.
        layers: their indices, ascending.
        window: tokens that a query sees including itself, or None for all.
        values_per_token: values (not bytes) of K and V that one token keeps in these layers.
    """

    name: str
    layers: tuple[int, ...]
    window: int | None
    values_per_token: int


def kv_groups(spec: DecoderSpec) -> tuple[LayerGroup, ...]:
    """The layers that see everything first, if there are any, then those of each window, shortest first."""
    layers: dict[int | None, list[int]] = {}
    for index, layer in enumerate(spec.layers):
        layers.setdefault(layer.attention.window, []).append(index)
    windows = sorted(window for window in layers if window is not None)
    order: list[int | None] = [None, *windows] if None in layers else [*windows]
    return tuple(
        LayerGroup(
            "full" if window is None else f"window-{window}",
            tuple(layers[window]),
            window,
            sum(_values(spec, index) for index in layers[window]),
        )
        for window in order
    )


def kv_bytes_per_token(spec: DecoderSpec, kv_type: str, layers: tuple[int, ...] | None = None) -> int:
    """Bytes that one token keeps in those layers, all if left out; the filling of odd head sizes is not counted."""
    chosen = range(len(spec.layers)) if layers is None else layers
    return sum(KV_COSTS[kv_type].bytes_per_token(spec.layers[index].attention) for index in chosen)


def _values(spec: DecoderSpec, index: int) -> int:
    attention = spec.layers[index].attention
    return 2 * attention.num_kv_heads * attention.head_dim


def resolve_kv_type(kv_type: str, weights: WeightMap) -> str:
    """The KV type as chosen; auto is f32 where the weights are, else bf16."""
    if kv_type != "auto":
        return kv_type
    ref = weights.tensors.get("embed")
    return "f32" if ref is not None and ref.tensor.storage is Storage.F32 else "bf16"
