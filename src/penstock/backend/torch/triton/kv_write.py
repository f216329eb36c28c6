"""A step's queries and keys normed and rotated, its keys and values stored in pages: one kernel, one token a program.

Knows nothing about layers' weights or attention. Invariant: what is stored of a token, its scale too, depends on that
token and its position alone; a page is written only at the positions of the step's own tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from penstock.backend.torch.triton.launch import CODED, FLOATS, FP8, expect, expect_dense, interprets, power_of_two
from penstock.backend.torch.triton.numbers import code_scale, coded, greatest_size, rounded, widened

STORED = (torch.float32, torch.bfloat16, torch.int8, FP8)


class Pages(NamedTuple):
    """One layer's keys and values.

    Attributes:
        keys, values: f32, bf16, i8 or e4m3.  # [P, B, K, D]
        key_scales, value_scales: of codes; None for floats.  # [P, B, K] f32
    """

    keys: torch.Tensor
    values: torch.Tensor
    key_scales: torch.Tensor | None = None
    value_scales: torch.Tensor | None = None

    def check(self) -> None:
        """Compares the arrays with one another.

        Raises:
            ValueError: shapes or kinds that do not fit, or scales that are missing or too many.
        """
        expect_dense("keys", self.keys, (-1, -1, -1, -1), STORED)
        shape = tuple(self.keys.shape)
        expect_dense("values", self.values, shape, (self.keys.dtype,))
        for name, scales in (("key_scales", self.key_scales), ("value_scales", self.value_scales)):
            if (scales is not None) != (self.keys.dtype in CODED):
                raise ValueError(f"{name} belong to pages of codes alone; these hold {self.keys.dtype}.")
            if scales is not None:
                expect_dense(name, scales, shape[:3], (torch.float32,))


class Batch(NamedTuple):
    """Where a step's tokens lie: rows of each sequence one after the other.

    Attributes:
        tables: pages of each sequence in order; entries past its last page are never read.  # [S, N] i32
        row_starts: where each sequence's tokens begin; the last is how many there are.  # [S + 1] i32
        positions: of each sequence's first token of the step.  # [S] i32
        max_rows: at least as many as the longest of them has tokens.
    """

    tables: torch.Tensor
    row_starts: torch.Tensor
    positions: torch.Tensor
    max_rows: int

    def check(self) -> None:
        """Compares the arrays with one another.

        Raises:
            ValueError: shapes or kinds that do not fit.
        """
        expect("tables", self.tables, (-1, -1), (torch.int32,))
        num = self.tables.shape[0]
        expect_dense("row_starts", self.row_starts, (num + 1,), (torch.int32,))
        expect_dense("positions", self.positions, (num,), (torch.int32,))


class Rotary(NamedTuple):
    """Cosines and sines of positions and how pairs lie.

    Attributes:
        cos, sin: # [max positions, dims / 2] f32
        interleaved: pairs are (2i, 2i + 1) instead of (i, i + dims / 2).
    """

    cos: torch.Tensor
    sin: torch.Tensor
    interleaved: bool = False


class HeadNorm(NamedTuple):
    """RMSNorm of every head before the rotation: weights [D] of queries and keys."""

    q_weight: torch.Tensor
    k_weight: torch.Tensor
    eps: float


@triton.jit
def turned_heads(
    x: tl.tensor,
    heads: tl.tensor,
    weight: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    eps: tl.tensor,
    HEADS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DIM: tl.constexpr,
    TURNED: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    NORM: tl.constexpr,
    WIDEN: tl.constexpr,
) -> tl.tensor:
    """Heads of one token, normed and rotated: a·c - b·s and b·c + a·s, products rounded.  # [HEADS, BLOCK_D] f32."""
    h = tl.arange(0, HEADS)[:, None]
    d = tl.arange(0, BLOCK_D)
    inside = (h < heads) & (d < DIM)[None, :]
    value = widened(tl.load(x + h * DIM + d[None, :], mask=inside, other=0.0), WIDEN)
    if NORM:
        scale = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(value * value, axis=1) / DIM + eps))[:, None]
        value = value * scale * widened(tl.load(weight + d, mask=d < DIM, other=0.0), WIDEN)[None, :]
    if TURNED > 0:
        half: tl.constexpr = TURNED // 2
        if INTERLEAVED:
            other = tl.where(d % 2 == 0, d + 1, d - 1)
            pair, first = d // 2, d % 2 == 0
        else:
            other = tl.where(d < half, d + half, d - half)
            pair, first = d % half, d < half
        turning = d < TURNED
        other = tl.where(turning, other, 0)
        partner = widened(tl.load(x + h * DIM + other[None, :], mask=inside, other=0.0), WIDEN)
        if NORM:
            partner = partner * scale * widened(tl.load(weight + other), WIDEN)[None, :]
        c = tl.load(cos + pair, mask=turning, other=1.0)[None, :]
        s = tl.load(sin + pair, mask=turning, other=0.0)[None, :]
        ahead, across = value * c, partner * s
        value = tl.where(turning[None, :], tl.where(first[None, :], ahead - across, ahead + across), value)
    return value


@triton.jit
def store_heads(
    value: tl.tensor,
    pages: tl.tensor,
    scales: tl.tensor,
    place: tl.tensor,
    heads: tl.tensor,
    HEADS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DIM: tl.constexpr,
    CODES: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """Stores one token's heads at a place of the pages: page · B + position within it."""
    h = tl.arange(0, HEADS)
    d = tl.arange(0, BLOCK_D)
    inside = (h < heads)[:, None] & (d < DIM)[None, :]
    at = pages + (place * heads + h)[:, None] * DIM + d[None, :]
    kind: tl.constexpr = pages.dtype.element_ty
    if CODES:
        most: tl.constexpr = 127.0 if kind == tl.int8 else 448.0
        scale, inverse = code_scale(greatest_size(value, 1), most)
        tl.store(scales + place * heads + h, scale, mask=h < heads)
        tl.store(at, coded(value, inverse[:, None], kind, WIDEN), mask=inside)
    else:
        tl.store(at, rounded(value, kind, WIDEN), mask=inside)


@triton.jit
def place_of(
    token: tl.tensor,
    tables: tl.tensor,
    row_starts: tl.tensor,
    positions: tl.tensor,
    num: tl.tensor,
    table_stride: tl.tensor,
    B: tl.constexpr,
    BLOCK_S: tl.constexpr,
) -> tl.tensor:
    """(position of a token of the step, page · B + position within the page)."""
    s = tl.arange(0, BLOCK_S)
    ends = tl.load(row_starts + 1 + s, mask=s < num, other=2147483647)
    sequence = tl.sum((ends <= token).to(tl.int32), axis=0)
    position = tl.load(positions + sequence) + token - tl.load(row_starts + sequence)
    page = tl.load(tables + sequence.to(tl.int64) * table_stride + position // B)
    return position, page.to(tl.int64) * B + position % B


@triton.jit
def kv_write_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    q_out: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    tables: tl.tensor,
    row_starts: tl.tensor,
    positions: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    q_weight: tl.tensor,
    k_weight: tl.tensor,
    num: tl.tensor,
    heads: tl.tensor,
    kv_heads: tl.tensor,
    q_stride: tl.tensor,
    k_stride: tl.tensor,
    v_stride: tl.tensor,
    table_stride: tl.tensor,
    eps: tl.tensor,
    B: tl.constexpr,
    DIM: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    TURNED: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    NORM: tl.constexpr,
    CODES: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """One token."""
    token = tl.program_id(0)
    row = token.to(tl.int64)
    position, place = place_of(token, tables, row_starts, positions, num, table_stride, B, BLOCK_S)
    c = cos + position.to(tl.int64) * (TURNED // 2)
    s = sin + position.to(tl.int64) * (TURNED // 2)
    facts: tl.constexpr = (BLOCK_D, DIM, TURNED, INTERLEAVED, NORM, WIDEN)
    query = turned_heads(q + row * q_stride, heads, q_weight, c, s, eps, HEADS, *facts)
    h = tl.arange(0, HEADS)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    at = q_out + (row * heads + h) * DIM + d
    tl.store(at, rounded(query, q_out.dtype.element_ty, WIDEN), mask=(h < heads) & (d < DIM))
    key = turned_heads(k + row * k_stride, kv_heads, k_weight, c, s, eps, KV_HEADS, *facts)
    store_heads(key, keys, key_scales, place, kv_heads, KV_HEADS, BLOCK_D, DIM, CODES, WIDEN)
    plain = turned_heads(
        v + row * v_stride, kv_heads, k_weight, c, s, eps, KV_HEADS, BLOCK_D, DIM, 0, False, False, WIDEN
    )
    store_heads(plain, values, value_scales, place, kv_heads, KV_HEADS, BLOCK_D, DIM, CODES, WIDEN)


def kv_write(
    qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    pages: Pages,
    batch: Batch,
    rotary: Rotary | None = None,
    norm: HeadNorm | None = None,
) -> torch.Tensor:
    """Queries normed and rotated, of q's kind; keys, normed and rotated, and values go into the pages.  # [T, H, D].

    As codes, each head of a token has the scale max|x| / 127 (int8) or / 448 (e4m3); one with NaN or infinity in it
    gets a scale of NaN, one all below 2^-119 one of nought.

    Args:
        qkv: q [T, H, D], k and v [T, K, D], of any float kind; heads of a token dense, tokens any stride apart.
        pages: of one layer, changed.
        batch: where the tokens lie; every position must be below the tables' and the rotary's ends.
        rotary: None where the layer has no positions.
        norm: RMSNorm over each head before the rotation, or None.

    Raises:
        ValueError: shapes or kinds that do not fit.
    """
    _check(qkv, pages, batch, rotary, norm)
    q, k, _ = qkv
    tokens, heads, dim = q.shape
    q_out = torch.empty(tokens, heads, dim, dtype=q.dtype, device=q.device)
    if not tokens:
        return q_out
    num, kv_heads = batch.tables.shape[0], k.shape[1]
    scales = (pages.key_scales, pages.value_scales)
    codes = pages.keys.dtype in CODED
    kv_write_kernel[(tokens,)](
        *qkv,
        q_out,
        pages.keys,
        pages.values,
        *(scales if codes else (q_out, q_out)),
        batch.tables,
        batch.row_starts,
        batch.positions,
        *((rotary.cos, rotary.sin) if rotary else (q_out, q_out)),
        *((norm.q_weight, norm.k_weight, num) if norm else (q_out, q_out, num)),
        *(heads, kv_heads),
        *(each.stride(0) for each in (*qkv, batch.tables)),
        norm.eps if norm else 0.0,
        B=pages.keys.shape[1],
        DIM=dim,
        HEADS=power_of_two(heads),
        KV_HEADS=power_of_two(kv_heads),
        BLOCK_D=power_of_two(dim),
        BLOCK_S=power_of_two(num),
        TURNED=2 * rotary.cos.shape[1] if rotary else 0,
        INTERLEAVED=rotary is not None and rotary.interleaved,
        NORM=norm is not None,
        CODES=codes,
        WIDEN=interprets(kv_write_kernel),
        num_warps=4,
        enable_fp_fusion=False,
    )
    return q_out


def _check(
    qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    pages: Pages,
    batch: Batch,
    rotary: Rotary | None,
    norm: HeadNorm | None,
) -> None:
    pages.check()
    batch.check()
    kv_heads, dim = pages.keys.shape[2:]
    tokens = qkv[0].shape[0]
    for name, each, heads in zip("qkv", qkv, (-1, kv_heads, kv_heads), strict=True):
        expect(name, each, (tokens, heads, dim), FLOATS)
        if each.shape[1] > 1 and each.stride(1) != dim:
            raise ValueError(f"{name} has stride {each.stride(1)} between heads; {dim} is needed.")
    if rotary is not None:
        expect_dense("cos", rotary.cos, (-1, -1), (torch.float32,))
        expect_dense("sin", rotary.sin, tuple(rotary.cos.shape), (torch.float32,))
        if not 0 < 2 * rotary.cos.shape[1] <= dim:
            raise ValueError(f"cos turns {2 * rotary.cos.shape[1]} dimensions; a head has {dim}.")
    if norm is not None:
        expect("q_weight", norm.q_weight, (dim,), FLOATS)
        expect("k_weight", norm.k_weight, (dim,), FLOATS)
