"""Attention of few rows over pages, a program a split, then one that merges splits in order: decode, verification.

Knows nothing about layers. Invariant: that of attention_split: splits lie at absolute positions, whatever the batch, so
that a row has the bits of `attend_prefill`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from penstock.backend.torch.triton.attention_split import (
    SPLIT,
    Attend,
    Prepared,
    attend_split,
    begin_rows,
    merge,
    operand,
    prepare,
    tile_of_rows,
)
from penstock.backend.torch.triton.kv_write import Batch, Pages
from penstock.backend.torch.triton.numbers import rounded


@triton.jit
def split_kernel(
    q: tl.tensor,
    parts: tl.tensor,  # [T, H, splits, D] f32
    weights: tl.tensor,  # [T, H, splits, 2] f32: weight and peak
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    tables: tl.tensor,
    row_starts: tl.tensor,
    positions: tl.tensor,
    tiles: tl.tensor,
    table_stride: tl.tensor,
    kv_heads: tl.tensor,
    window: tl.tensor,
    scale: tl.tensor,
    softcap: tl.tensor,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_KV: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DIM: tl.constexpr,
    B: tl.constexpr,
    CODES: tl.constexpr,
    CAP: tl.constexpr,
    SINKS: tl.constexpr,
    F32: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """A tile of one sequence's rows against one split of one kv head."""
    sequence = tl.program_id(0) // tiles
    kv_head, split, splits = tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    token, in_group, position, there, low, high = tile_of_rows(
        row_starts, positions, sequence, tl.program_id(0) % tiles, window, GROUP, ROWS
    )
    first = split * SPLIT
    if (first <= high) & (first + SPLIT > low):
        row = token.to(tl.int64) * (kv_heads * GROUP) + kv_head * GROUP + in_group
        d = tl.arange(0, BLOCK_D)
        mask = there[:, None] & (d < DIM)[None, :]
        rows = operand(tl.load(q + row[:, None] * DIM + d[None, :], mask=mask, other=0.0), F32, WIDEN)
        pages = (keys, values, key_scales, value_scales, tables + sequence.to(tl.int64) * table_stride)
        facts: tl.constexpr = (ROWS, SPLIT, BLOCK_KV, BLOCK_D, DIM, B, CODES, CAP, F32, WIDEN)
        total, weight, peak = attend_split(
            rows, position, there, *pages, kv_head, kv_heads, first, low, high, window, scale, softcap, *facts
        )
        place = row * splits + split
        tl.store(parts + place[:, None] * DIM + d[None, :], total, mask=mask)
        tl.store(weights + place * 2, weight, mask=there)
        tl.store(weights + place * 2 + 1, peak, mask=there)


@triton.jit
def merge_kernel(
    out: tl.tensor,  # [T, H, D]
    parts: tl.tensor,
    weights: tl.tensor,
    sinks: tl.tensor,
    row_starts: tl.tensor,
    positions: tl.tensor,
    tiles: tl.tensor,
    splits: tl.tensor,
    kv_heads: tl.tensor,
    window: tl.tensor,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DIM: tl.constexpr,
    SINKS: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """A tile of one sequence's rows of one kv head."""
    sequence = tl.program_id(0) // tiles
    kv_head = tl.program_id(1)
    token, in_group, _position, there, low, high = tile_of_rows(
        row_starts, positions, sequence, tl.program_id(0) % tiles, window, GROUP, ROWS
    )
    if high >= 0:
        head = kv_head * GROUP + in_group
        row = token.to(tl.int64) * (kv_heads * GROUP) + head
        d = tl.arange(0, BLOCK_D)
        mask = there[:, None] & (d < DIM)[None, :]
        total, weight, peak = begin_rows(sinks, head, ROWS, BLOCK_D, SINKS)
        for split in range(low // SPLIT, high // SPLIT + 1):
            place = row * splits + split
            part = tl.load(parts + place[:, None] * DIM + d[None, :], mask=mask, other=0.0)
            part_weight = tl.load(weights + place * 2, mask=there, other=0.0)
            part_peak = tl.load(weights + place * 2 + 1, mask=there, other=float("-inf"))
            total, weight, peak = merge(total, weight, peak, part, part_weight, part_peak)
        total = tl.div_rn(total, weight[:, None] + 0.0 * total)
        tl.store(out + row[:, None] * DIM + d[None, :], rounded(total, out.dtype.element_ty, WIDEN), mask=mask)


def attend_decode(q: torch.Tensor, pages: Pages, batch: Batch, attend: Attend) -> torch.Tensor:
    """What `attend_prefill` gives, in the same bits, for sequences of few rows: splits are computed side by side.

    The tables' width bounds the number of splits: give it as many columns as the longest sequence needs. Takes
    T · H · splits · (D + 2) floats of working memory, a split being of SPLIT positions.

    Args:
        q: queries, rotated.  # [T, H, D] floats
        pages: of one layer.
        batch: row_starts are places in q; a batch of some sequences of a step is a slice of the step's arrays.
        attend: what the layer's attention is.

    Raises:
        ValueError: shapes or kinds that do not fit.
    """
    made = prepare(q, pages, batch, attend, split_kernel)
    if batch.tables.shape[0] and made.tiles:
        _launch(q, made, batch, attend, pages.keys.shape[2])
    return made.out


def _launch(q: torch.Tensor, made: Prepared, batch: Batch, attend: Attend, kv_heads: int) -> None:
    tokens, heads, dim = q.shape
    parts = torch.empty(tokens, heads, made.splits, dim, dtype=torch.float32, device=q.device)
    weights = torch.empty(tokens, heads, made.splits, 2, dtype=torch.float32, device=q.device)
    programs = made.tiles * batch.tables.shape[0]
    where = (batch.row_starts, batch.positions, made.tiles)
    split_kernel[(programs, kv_heads, made.splits)](
        q,
        parts,
        weights,
        *made.pages,
        batch.tables,
        *where,
        batch.tables.stride(0),
        *made.numbers,
        **made.flags,
        **made.options,
    )
    names = ("GROUP", "ROWS", "BLOCK_D", "DIM", "SINKS", "WIDEN")
    merge_kernel[(programs, kv_heads)](
        made.out,
        parts,
        weights,
        q if attend.sinks is None else attend.sinks,
        *where,
        made.splits,
        kv_heads,
        attend.window,
        SPLIT=SPLIT,
        **{name: made.flags[name] for name in names},
        **made.options,
    )
