"""Attention of a block of tokens over paged keys and values, in plain operations.

Knows nothing about sequences beyond their page tables. Invariant: every token is a product of its own, of one shape
whatever its position and its neighbours, over splits of SPLIT positions that begin at multiples of it; a split that a
token sees nothing of changes none of its bits. Splits are merged in ascending order as in online softmax (Milakov and
Gimelshein 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from penstock.backend.torch.pages import KvLayer
from penstock.model import Attention

SPLIT = 256  # positions that share one softmax maximum


@dataclass(frozen=True, slots=True)
class View:
    """What a block of tokens sees of one KV group.

    Attributes:
        tables: page of every page_tokens positions, the spare page where there is none.  # [T, N] i64
        positions: # [T] i64
        page_tokens: tokens of a page.
        first, end: splits that any of the block's tokens sees something of.
    """

    tables: torch.Tensor
    positions: torch.Tensor
    page_tokens: int
    first: int
    end: int

    @property
    def own_places(self) -> torch.Tensor:
        """Flat places of the tokens themselves.  # [T] i64."""
        page = self.tables.gather(1, (self.positions // self.page_tokens)[:, None])[:, 0]
        return page * self.page_tokens + self.positions % self.page_tokens


@dataclass(slots=True)
class _Running:
    """Softmax so far of every (token, kv head) and query head of its group."""

    total: torch.Tensor  # [T · K, G, D] f32
    maximum: torch.Tensor  # [T · K, G, 1] f32
    weight: torch.Tensor  # [T · K, G, 1] f32


def attend(q: torch.Tensor, kv: KvLayer, view: View, attention: Attention, sinks: torch.Tensor | None) -> torch.Tensor:
    """Outputs of all heads side by side.  # [T, H · D] f32.

    Args:
        q: rotated queries.  # [T, H, D] f32
        kv: the layer's pages; the block's own keys and values are stored already.
        view: what each token sees.
        attention: the layer's facts.
        sinks: one logit a head that joins the denominator, or None.  # [H] f32
    """
    tokens, dim, kv_heads = len(q), attention.head_dim, attention.num_kv_heads
    group = attention.num_heads // kv_heads
    scaled = (q * attention.scale).reshape(tokens * kv_heads, group, dim)
    state = _start(scaled, tokens, sinks)
    for split in range(view.first, view.end):
        at = torch.arange(split * SPLIT, (split + 1) * SPLIT, device=q.device)
        seen = at <= view.positions[:, None]  # [T, SPLIT]
        if attention.window is not None:
            seen &= at > view.positions[:, None] - attention.window
        places = view.tables[:, at // view.page_tokens] * view.page_tokens + at % view.page_tokens
        keys, values = kv.read(places)
        values = torch.where(seen[..., None, None], values, 0.0)  # what is not seen may be NaN
        keys, values = (x.transpose(1, 2).reshape(tokens * kv_heads, SPLIT, dim) for x in (keys, values))
        hidden = ~seen[:, None, None, :].expand(tokens, kv_heads, group, SPLIT).reshape(-1, group, SPLIT)
        scores = torch.bmm(scaled, keys.transpose(1, 2))
        if attention.softcap:
            scores = torch.tanh(scores / attention.softcap) * attention.softcap
        _merge(state, scores.masked_fill(hidden, -torch.inf), values)
    return (state.total / state.weight).reshape(tokens, -1)


def _start(scaled: torch.Tensor, tokens: int, sinks: torch.Tensor | None) -> _Running:
    """Nothing seen yet; a sink is one more score with no value."""
    shape = (*scaled.shape[:2], 1)
    if sinks is None:
        return _Running(torch.zeros_like(scaled), scaled.new_full(shape, -torch.inf), scaled.new_zeros(shape))
    maximum = sinks.expand(tokens, -1).reshape(shape)
    return _Running(torch.zeros_like(scaled), maximum, scaled.new_ones(shape))


def _merge(state: _Running, scores: torch.Tensor, values: torch.Tensor) -> None:
    """Adds a split.  scores: # [T · K, G, SPLIT] f32; values: # [T · K, SPLIT, D] f32."""
    best = torch.maximum(state.maximum, scores.amax(-1, keepdim=True))
    base = torch.where(best == -torch.inf, 0.0, best)
    before, weights = torch.exp(state.maximum - base), torch.exp(scores - base)
    state.total = state.total * before + torch.bmm(weights, values)
    state.weight = state.weight * before + weights.sum(-1, keepdim=True)
    state.maximum = best
