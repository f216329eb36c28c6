"""What a step needs at least: bytes that must be read and operations that must be done, from spec and weights alone.

Knows nothing about time or backends. Invariant: a figure here is a lower bound: every weight is read once a step
however many rows there are, every kept key and value once for each row that sees it, and nothing else is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.bench.machine import DOT, FMA, MachineLimits
from penstock.formats import FLOAT_LAYOUTS, num_bytes
from penstock.model import KV_COSTS, Attention, DecoderSpec, WeightMap, places

BANDWIDTH, ARITHMETIC = "bandwidth", "arithmetic"


@dataclass(frozen=True, slots=True)
class Share:
    """One sequence's part of a step: `tokens` computed from position `start` on; whether it samples at the end."""

    start: int
    tokens: int
    samples: bool = True


@dataclass(frozen=True, slots=True)
class Needs:
    """What a step needs at least.

    Attributes:
        bytes: read, of weights and KV; those written are not counted.
        int_ops, float_ops: two for every multiply-add; group codes are multiplied as integers, everything else as f32.
    """

    bytes: int
    int_ops: int
    float_ops: int

    def limit(self, machine: MachineLimits) -> tuple[float, str]:
        """The least seconds that the machine's limits let the step take, and which of them it is."""
        reading = self.bytes / machine.bandwidth
        computing = self.int_ops / machine.peak(DOT) + self.float_ops / machine.peak(FMA)
        return max((reading, BANDWIDTH), (computing, ARITHMETIC))


@dataclass(frozen=True, slots=True)
class _Part:
    """Matrices that are used alike: their bytes and multiply-adds a token, and which peak they count against."""

    bytes: int = 0
    int_macs: int = 0
    float_macs: int = 0

    def plus(self, storage_bytes: int, macs: int, is_float: bool) -> _Part:
        return _Part(
            self.bytes + storage_bytes, self.int_macs + macs * (not is_float), self.float_macs + macs * is_float
        )


class Work:
    """The needs of any step of one model.

    Args:
        spec: the decoder.
        weights: their storage kinds are what counts.
        kv_type: "f32", "bf16" or "int8".
    """

    def __init__(self, spec: DecoderSpec, weights: WeightMap, kv_type: str) -> None:
        self._spec = spec
        self._kv = KV_COSTS[kv_type]
        self._dense = _Part()
        self._head = _Part()
        self._experts: dict[int, _Part] = {}
        self._embed_row_bytes = 0
        for place, shape in places(spec).items():
            if len(shape) == 2:
                storage = weights.tensors[place].tensor.storage
                self._add(place, shape, num_bytes(storage, shape), storage in FLOAT_LAYOUTS)

    def _add(self, place: str, shape: tuple[int, ...], stored: int, is_float: bool) -> None:
        macs = shape[0] * shape[1]
        if place == "embed":
            self._embed_row_bytes = stored // shape[0]
        if place == "head" or (place == "embed" and self._spec.tied_head):
            self._head = self._head.plus(stored, macs, is_float)
        elif ".experts." in place:
            layer = int(place.split(".")[1])
            self._experts[layer] = self._experts.get(layer, _Part()).plus(stored, macs, is_float)
        elif place != "embed":
            self._dense = self._dense.plus(stored, macs, is_float)

    def needs(self, shares: Sequence[Share]) -> Needs:
        """What a step of these shares needs; a mixture's experts are taken to be chosen evenly."""
        tokens, sampled = sum(share.tokens for share in shares), sum(share.samples for share in shares)
        read = float(self._dense.bytes + tokens * self._embed_row_bytes + (self._head.bytes if sampled else 0))
        int_macs = float(self._dense.int_macs * tokens + self._head.int_macs * sampled)
        float_macs = float(self._dense.float_macs * tokens + self._head.float_macs * sampled)
        for layer, part in self._experts.items():
            mlp = self._spec.layers[layer].mlp
            chosen = mlp.experts_per_token / mlp.num_experts
            read += part.bytes * (1 - (1 - chosen) ** tokens)
            int_macs += part.int_macs * chosen * tokens
            float_macs += part.float_macs * chosen * tokens
        for layer_spec in self._spec.layers:
            attention = layer_spec.attention
            for share in shares:
                read += self._kv.bytes_per_token(attention) * kept(attention, share)
                float_macs += 2 * attention.num_heads * attention.head_dim * pairs(attention, share)
        return Needs(round(read), round(2 * int_macs), round(2 * float_macs))


def kept(attention: Attention, share: Share) -> int:
    """Positions before its own that a share reads from the KV."""
    return share.start if attention.window is None else min(share.start, attention.window - 1)


def pairs(attention: Attention, share: Share) -> int:
    """(query, key) pairs of a share: each query sees itself and what its window reaches."""
    first, last = share.start + 1, share.start + share.tokens
    whole = (first + last) * share.tokens // 2
    if attention.window is None or last <= attention.window:
        return whole
    beyond = last - max(first - 1, attention.window)  # queries whose window is full
    within = share.tokens - beyond
    return (first + first + within - 1) * within // 2 + beyond * attention.window
