"""Which layers of a decoder share one page table, because they look back equally far.

Knows nothing about pages, bytes or backends. Invariant: every layer is in exactly one group, and a group's layers have
one window.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.model.spec import DecoderSpec


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


def _values(spec: DecoderSpec, index: int) -> int:
    attention = spec.layers[index].attention
    return 2 * attention.num_kv_heads * attention.head_dim
