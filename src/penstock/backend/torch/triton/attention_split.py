"""One split of attention over pages, for decoding, verification and prefill alike, and how splits are merged.

Knows nothing about grids. Invariant: a row's bits depend on its own query and its sequence's stored keys and values
alone: splits lie at multiples of SPLIT positions, blocks at multiples of BLOCK_KV within them, both kernels take them
in ascending order in programs of ROWS rows and as many warps, and a block or split of which a row sees nothing leaves
its sums as they are. Source: online softmax (Milakov and Gimelshein 2018), over powers of two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from penstock.backend.torch.triton.kv_write import Batch, Pages
from penstock.backend.torch.triton.launch import CODED, FLOATS, ceil_div, expect, interprets, power_of_two
from penstock.backend.torch.triton.numbers import product, rounded, widened

SPLIT = 256  # positions of a split
BLOCK_KV = 64  # positions of a block
ROWS = 64  # (token, head) rows of a program: the side of a Hopper matrix instruction
WARPS = 4
MAX_DIM = 256


class Attend(NamedTuple):
    """What a layer's attention is.

    Attributes:
        scale: multiplies q · k.
        window: positions that a query sees, itself included; 0 is all.
        softcap: tanh cap of the scores; 0 is off.
        sinks: one score a head that joins the denominator, or None.  # [H] f32
    """

    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: torch.Tensor | None = None


@triton.jit
def tile_of_rows(
    row_starts: tl.tensor,
    positions: tl.tensor,
    sequence: tl.tensor,
    tile: tl.tensor,
    window: tl.tensor,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
) -> tl.tensor:
    """(token [ROWS], head in group [ROWS], position [ROWS], row is one [ROWS], lowest and highest position seen)."""
    per: tl.constexpr = ROWS // GROUP
    start = tl.load(row_starts + sequence)
    count = tl.load(row_starts + sequence + 1) - start
    first = tl.load(positions + sequence)
    r = tl.arange(0, ROWS)
    inside = tile * per + r // GROUP
    there = (r < per * GROUP) & (inside < count)
    low = tl.where(window > 0, tl.maximum(first + tile * per - window + 1, 0), 0)
    high = first + tl.minimum((tile + 1) * per, count) - 1
    high = tl.where(tile * per < count, high, -1)
    return start + inside, r % GROUP, first + inside, there, low, high


@triton.jit
def operand(value: tl.tensor, F32: tl.constexpr, WIDEN: tl.constexpr) -> tl.tensor:
    """Stored elements as a product takes them: f32, or bf16, where int8 and e4m3 are exact."""
    if F32 or WIDEN:
        taken = widened(value, WIDEN)
    else:
        taken = value.to(tl.bfloat16)
    return taken


@triton.jit
def seen_scores(
    scores: tl.tensor,
    position: tl.tensor,
    row_position: tl.tensor,
    inside: tl.tensor,
    window: tl.tensor,
    scale: tl.tensor,
    softcap: tl.tensor,
    CAP: tl.constexpr,
) -> tl.tensor:
    """Scores scaled and capped, as exponents of two; -inf where a row does not see a position."""
    scores = scores * scale
    if CAP:
        scores = (1.0 - tl.div_rn(2.0 + 0.0 * scores, tl.exp(2.0 * scores / softcap) + 1.0)) * softcap
    seen = inside & (position[None, :] <= row_position[:, None])
    seen = seen & ((window == 0) | (position[None, :] > row_position[:, None] - window))
    return tl.where(seen, scores * 1.4426950408889634, float("-inf"))


@triton.jit
def attend_split(
    q: tl.tensor,
    row_position: tl.tensor,
    there: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    table: tl.tensor,
    kv_head: tl.tensor,
    kv_heads: tl.tensor,
    first: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    window: tl.tensor,
    scale: tl.tensor,
    softcap: tl.tensor,
    ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_KV: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DIM: tl.constexpr,
    B: tl.constexpr,
    CODES: tl.constexpr,
    CAP: tl.constexpr,
    F32: tl.constexpr,
    WIDEN: tl.constexpr,
) -> tl.tensor:
    """(values [ROWS, BLOCK_D], weight [ROWS], peak [ROWS]) of the split from position `first` on."""
    d = tl.arange(0, BLOCK_D)
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    weight = tl.full((ROWS,), 0.0, tl.float32)
    total = tl.full((ROWS, BLOCK_D), 0.0, tl.float32)
    begin = tl.maximum(first, low // BLOCK_KV * BLOCK_KV)
    end = tl.minimum(first + SPLIT, high + 1)
    for block in range(begin, end, BLOCK_KV):
        position = block + tl.arange(0, BLOCK_KV)
        kept = (position >= low) & (position <= high)
        page = tl.load(table + position // B, mask=kept, other=0)
        place = (page.to(tl.int64) * B + position % B) * kv_heads + kv_head
        element = place[:, None] * DIM + d[None, :]
        mask = kept[:, None] & (d < DIM)[None, :]
        k = operand(tl.load(keys + element, mask=mask, other=0.0), F32, WIDEN)
        scores = product(q, tl.trans(k), tl.full((ROWS, BLOCK_KV), 0.0, tl.float32), WIDEN)
        if CODES:
            scores = scores * tl.load(key_scales + place, mask=kept, other=0.0)[None, :]
        seen = kept[None, :] & there[:, None]
        scores = seen_scores(scores, position, row_position, seen, window, scale, softcap, CAP)
        best = tl.maximum(peak, tl.max(scores, axis=1))
        origin = tl.where(best == float("-inf"), 0.0, best)
        p = tl.exp2(scores - origin[:, None])
        before = tl.exp2(peak - origin)
        weight = tl.fma(weight, before, tl.sum(p, axis=1))
        if CODES:
            p = p * tl.load(value_scales + place, mask=kept, other=0.0)[None, :]
        v = operand(tl.load(values + element, mask=mask, other=0.0), F32, WIDEN)
        p = p if F32 else rounded(p, tl.bfloat16, WIDEN)
        total = product(p, v, total * before[:, None], WIDEN)
        peak = best
    return total, weight, peak


@triton.jit
def merge(
    total: tl.tensor, weight: tl.tensor, peak: tl.tensor, part: tl.tensor, part_weight: tl.tensor, part_peak: tl.tensor
) -> tl.tensor:
    """(values, weight, peak) so far and those of the next split."""
    best = tl.maximum(peak, part_peak)
    origin = tl.where(best == float("-inf"), 0.0, best)
    before, now = tl.exp2(peak - origin), tl.exp2(part_peak - origin)
    total = tl.fma(part, now[:, None] + 0.0 * part, total * before[:, None])
    return total, tl.fma(part_weight, now, weight * before), best


@triton.jit
def begin_rows(
    sinks: tl.tensor, head: tl.tensor, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, SINKS: tl.constexpr
) -> tl.tensor:
    """(values, weight, peak) of rows that saw nothing: a sink is one more score, with no value."""
    total = tl.full((ROWS, BLOCK_D), 0.0, tl.float32)
    if SINKS:
        peak = tl.load(sinks + head) * 1.4426950408889634
        return total, tl.full((ROWS,), 1.0, tl.float32), peak
    return total, tl.full((ROWS,), 0.0, tl.float32), tl.full((ROWS,), float("-inf"), tl.float32)


class Prepared(NamedTuple):
    """What both kernels are launched with.

    Attributes:
        out: # [T, H, D] of q's kind
        pages: the four arrays.
        tiles: programs that a sequence's rows need.
        splits: that the tables can hold.
        numbers: of kv heads, window, scale, softcap.
        flags: constants of the kernels.
        options: of the launch.
    """

    out: torch.Tensor
    pages: tuple[torch.Tensor, ...]
    tiles: int
    splits: int
    numbers: tuple[float, ...]
    flags: dict[str, Any]
    options: dict[str, Any]


def prepare(q: torch.Tensor, pages: Pages, batch: Batch, attend: Attend, kernel: Any) -> Prepared:
    """Compares the tensors with one another and makes what the launch needs.

    Raises:
        ValueError: shapes or kinds that do not fit.
    """
    pages.check()
    batch.check()
    page_tokens, kv_heads, dim = pages.keys.shape[1:]
    expect("q", q, (-1, -1, dim), FLOATS)
    heads = q.shape[1]
    group = heads // kv_heads
    if heads % kv_heads or not 1 <= group <= ROWS or dim > MAX_DIM:
        raise ValueError(f"{heads} heads of {dim} over {kv_heads}; a multiple is needed, {ROWS} and {MAX_DIM} at most.")
    if not q.is_contiguous():
        raise ValueError(f"q has strides {q.stride()}; it must be contiguous. hint: kv_write's result is")
    if attend.sinks is not None:
        expect("sinks", attend.sinks, (heads,), (torch.float32,))
    codes = pages.keys.dtype in CODED
    scales = (pages.key_scales, pages.value_scales) if codes else (pages.keys, pages.keys)
    arrays = tuple(each for each in (pages.keys, pages.values, *scales) if each is not None)
    wide = q.dtype != torch.bfloat16 or pages.keys.dtype == torch.float32
    flags = {
        "GROUP": group,
        "ROWS": ROWS,
        "SPLIT": SPLIT,
        "BLOCK_KV": BLOCK_KV // 2 if wide else BLOCK_KV,
        "BLOCK_D": power_of_two(dim, 16),
        "DIM": dim,
        "B": page_tokens,
        "CODES": codes,
        "CAP": attend.softcap > 0,
        "SINKS": attend.sinks is not None,
        "F32": wide,
        "WIDEN": interprets(kernel),
    }
    options = {"num_warps": 4 * WARPS if wide else WARPS, "num_stages": 2, "enable_fp_fusion": False}
    tiles = ceil_div(batch.max_rows, ROWS // group)
    splits = ceil_div(batch.tables.shape[1] * page_tokens, SPLIT)
    numbers = (kv_heads, attend.window, attend.scale, attend.softcap)
    return Prepared(torch.empty_like(q), arrays, tiles, splits, numbers, flags, options)
