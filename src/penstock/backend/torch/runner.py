"""The forward pass of any `DecoderSpec` over a ragged batch, in plain torch operations.

Knows nothing about slots, plans or sampling. Invariant: the batch is cut into blocks of one fixed number of tokens, the
last one filled up, and each goes through all layers before the next: every operation has the same shape in every step,
so that a token's bits depend on its own sequence alone. With `fast` a step is one block of however many tokens it has,
and that no longer holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from penstock.backend.torch.attention import SPLIT, View, attend
from penstock.backend.torch.layers import Weights, gated, mixture, project, rms_norm, rotate
from penstock.backend.torch.pages import KvLayer
from penstock.backend.torch.products import product
from penstock.model import Attention, DecoderSpec, Layer, QkNorm, Rope, RopeTable, kv_groups

Tables = tuple[torch.Tensor, torch.Tensor]  # cos and sin, [positions, dims / 2] f32


@dataclass(frozen=True, slots=True)
class Shape:
    """How steps are cut.

    Attributes:
        block_tokens: tokens of a block; of a block of attention where `fast`.
        page_tokens: tokens of a KV page.
        fast: a step is one block, and its bits depend on it.
    """

    block_tokens: int
    page_tokens: int
    fast: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's tokens on the device, already filled up to whole blocks.

    Attributes:
        tokens, positions, sequences: of every token; `sequences` are rows of the tables.  # [T] i64
        tables: of each KV group, the last row for padding.  # [S + 1, N] i64
        low, high: least and greatest position of every block, known to the host.
        shape: how the step is cut.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    sequences: torch.Tensor
    tables: tuple[torch.Tensor, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    shape: Shape


class _Block(NamedTuple):
    """Tokens that go through the layers together: ids, each rope's cosines and sines, views of each KV group."""

    tokens: torch.Tensor  # [T] i64
    turns: dict[Rope, Tables]
    views: list[list[View]]


class Runner:
    """Weights, rotary tables and pages of one model, and the pass over them."""

    def __init__(self, spec: DecoderSpec, weights: Weights) -> None:
        self._spec = spec
        self._weights = weights
        self._ropes: dict[Rope, Tables] = {}
        self._groups = kv_groups(spec)
        self._group_of = {layer: g for g, group in enumerate(self._groups) for layer in group.layers}
        self.kv: list[KvLayer] = []

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._weights["embed"].device

    def make_tables(self, max_model_tokens: int, positions: int) -> None:
        """Makes the rotary tables for positions below `positions`; max_model_tokens chooses the frequencies."""
        for layer in self._spec.layers:
            rope = layer.attention.rope
            if rope is None or rope in self._ropes:
                continue
            table, count = RopeTable(rope, max_model_tokens), min(positions, max_model_tokens)
            table.fill(count)
            cos, sin = (torch.from_numpy(values[:count].copy()).to(self.device) for values in (table.cos, table.sin))
            self._ropes[rope] = cos, sin

    def forward(self, batch: Batch, check: Callable[[], None]) -> torch.Tensor:
        """The residual stream behind the last layer; keys and values are stored.  # [T, hidden] f32.

        Args:
            batch: what to compute.
            check: called before every layer; what it raises ends the pass.
        """
        size = len(batch.tokens) if batch.shape.fast else batch.shape.block_tokens
        found = [self._pass(self._block(batch, first, size), check) for first in range(0, len(batch.tokens), size)]
        return torch.cat(found)

    def _block(self, batch: Batch, first: int, size: int) -> _Block:
        """Tokens [first, first + size) of a batch, and what each KV group shows them."""
        whole, step = slice(first, first + size), batch.shape.block_tokens
        positions = batch.positions[whole]
        views: list[list[View]] = [[] for _ in batch.tables]
        for start in range(first, first + size, step):
            part, number = slice(start, min(start + step, first + size)), start // step
            for table, group, found in zip(batch.tables, self._groups, views, strict=True):
                low = 0 if group.window is None else max(0, batch.low[number] - group.window + 1)
                seen, end = table[batch.sequences[part]], batch.high[number] // SPLIT + 1
                found.append(View(seen, batch.positions[part], batch.shape.page_tokens, low // SPLIT, end))
        turns = {rope: (cos[positions], sin[positions]) for rope, (cos, sin) in self._ropes.items()}
        return _Block(batch.tokens[whole], turns, views)

    def logits(self, hidden: torch.Tensor, rows: torch.Tensor, shape: Shape) -> torch.Tensor:
        """Logits after those tokens; their number is that of whole blocks.  # [N, V] f32.

        Args:
            hidden: what `forward` gave.  # [T, hidden] f32
            rows: indices of tokens.  # [N] i64
            shape: how the step is cut.
        """
        spec, weights = self._spec, self._weights
        size = max(1, len(rows)) if shape.fast else shape.block_tokens
        head, bias = weights["embed" if spec.tied_head else "head"], weights.get("head.bias")
        found = []
        for part in rows.split(size):
            x = product(rms_norm(hidden[part], weights["final_norm"], spec.norm_eps), head, bias) * spec.logit_scale
            cap = spec.logit_softcap
            found.append(torch.tanh(x / cap) * cap if cap else x)
        return torch.cat(found) if found else hidden.new_empty(0, spec.vocab)

    def _pass(self, block: _Block, check: Callable[[], None]) -> torch.Tensor:
        """All layers over a block.  # [T, hidden] f32."""
        spec = self._spec
        x = self._weights["embed"][block.tokens].float() * spec.embed_scale
        for index, layer in enumerate(spec.layers):
            check()
            at = f"layers.{index}."
            branch = self._attention(self._before(x, at + "attn_norm", layer), index, block)
            x = x + spec.residual_scale * self._behind(branch, at + "attn_post_norm", layer)
            feed = mixture if layer.mlp.num_experts else gated
            branch = feed(self._before(x, at + "mlp_norm", layer), self._weights, at, layer.mlp)
            x = x + spec.residual_scale * self._behind(branch, at + "mlp_post_norm", layer)
        return x

    def _before(self, x: torch.Tensor, place: str, layer: Layer) -> torch.Tensor:
        return rms_norm(x, self._weights[place], self._spec.norm_eps) if layer.pre_norms else x

    def _behind(self, branch: torch.Tensor, place: str, layer: Layer) -> torch.Tensor:
        return rms_norm(branch, self._weights[place], self._spec.norm_eps) if layer.post_norms else branch

    def _attention(self, x: torch.Tensor, index: int, block: _Block) -> torch.Tensor:
        """Projections, the store of keys and values, attention and its output.  # [T, hidden] f32."""
        attention, at, kv = self._spec.layers[index].attention, f"layers.{index}.", self.kv[index]
        q, k, v = (self._heads(x, at + name, attention, block) for name in "qkv")
        views = block.views[self._group_of[index]]
        kv.write(torch.cat([view.own_places for view in views]), k, v)
        sinks = self._weights.get(at + "sinks")
        parts = q.split([len(view.positions) for view in views])
        out = [attend(part, kv, view, attention, sinks) for part, view in zip(parts, views, strict=True)]
        return project(torch.cat(out), self._weights, at + "o")

    def _heads(self, x: torch.Tensor, place: str, attention: Attention, block: _Block) -> torch.Tensor:
        """Queries, keys or values: projected, normed, limited and rotated.  # [T, H or K, D] f32."""
        rows, norm = project(x, self._weights, place), self._weights.get(place + "_norm")
        if norm is not None and attention.qk_norm is QkNorm.ALL:
            rows = rms_norm(rows, norm, self._spec.norm_eps)
        heads = rows.reshape(len(x), -1, attention.head_dim)
        if norm is not None and attention.qk_norm is QkNorm.HEAD:
            heads = rms_norm(heads, norm, self._spec.norm_eps)
        if attention.qkv_clip:
            heads = heads.clamp(-attention.qkv_clip, attention.qkv_clip)
        if attention.rope is None or place.endswith(".v"):
            return heads
        return rotate(heads, *block.turns[attention.rope], attention.rope)
