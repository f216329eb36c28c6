"""Attention of a chunk's rows over pages, each program going through its rows' splits in order: for many rows.

Knows nothing about layers. Invariant: that of attention_split: the bits of `attend_decode` for the same row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from penstock.backend.torch.triton.attention_split import (
    Attend,
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
def prefill_kernel(
    q: tl.tensor,
    out: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    sinks: tl.tensor,
    tables: tl.tensor,
    row_starts: tl.tensor,
    positions: tl.tensor,
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
    """A tile of one sequence's rows against one kv head; the longest first."""
    sequence = tl.program_id(2)
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    token, in_group, position, there, low, high = tile_of_rows(
        row_starts, positions, sequence, tile, window, GROUP, ROWS
    )
    if high >= 0:
        head = kv_head * GROUP + in_group
        d = tl.arange(0, BLOCK_D)
        at = (token.to(tl.int64) * (kv_heads * GROUP) + head)[:, None] * DIM + d[None, :]
        mask = there[:, None] & (d < DIM)[None, :]
        rows = operand(tl.load(q + at, mask=mask, other=0.0), F32, WIDEN)
        table = tables + sequence.to(tl.int64) * table_stride
        total, weight, peak = begin_rows(sinks, head, ROWS, BLOCK_D, SINKS)
        pages = (keys, values, key_scales, value_scales, table, kv_head, kv_heads)
        facts: tl.constexpr = (ROWS, SPLIT, BLOCK_KV, BLOCK_D, DIM, B, CODES, CAP, F32, WIDEN)
        for first in range(low // SPLIT * SPLIT, high + 1, SPLIT):
            part, part_weight, part_peak = attend_split(
                rows, position, there, *pages, first, low, high, window, scale, softcap, *facts
            )
            total, weight, peak = merge(total, weight, peak, part, part_weight, part_peak)
        total = tl.div_rn(total, weight[:, None] + 0.0 * total)
        tl.store(out + at, rounded(total, out.dtype.element_ty, WIDEN), mask=mask)


def attend_prefill(q: torch.Tensor, pages: Pages, batch: Batch, attend: Attend) -> torch.Tensor:
    """Attention of every row over its sequence's positions up to its own, of q's kind.  # [T, H, D].

    Keys and values of the rows themselves must be in the pages. Rows that no sequence of the batch names stay unset.

    Args:
        q: queries, rotated.  # [T, H, D] floats
        pages: of one layer.
        batch: row_starts are places in q; a batch of some sequences of a step is a slice of the step's arrays.
        attend: what the layer's attention is.

    Raises:
        ValueError: shapes or kinds that do not fit.
    """
    made = prepare(q, pages, batch, attend, prefill_kernel)
    sequences, kv_heads = batch.tables.shape[0], pages.keys.shape[2]
    if sequences and made.tiles:
        prefill_kernel[(made.tiles, kv_heads, sequences)](
            q,
            made.out,
            *made.pages,
            q if attend.sinks is None else attend.sinks,
            batch.tables,
            batch.row_starts,
            batch.positions,
            batch.tables.stride(0),
            *made.numbers,
            **made.flags,
            **made.options,
        )
    return made.out
