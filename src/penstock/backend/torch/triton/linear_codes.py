"""Products with group codes: out = x · wᵀ + bias, where w lies as penstock.formats.packed has it and x holds floats.

Knows nothing about models. Invariant: codes enter products as integers, which are exact, one dot for each part of a
group; scales multiply its f32 sum. Parts follow each other in ascending K in one order for every row count, and rows
are only ever beside each other: an output element's bits depend on its own row and channel alone.

A program has one tile of 32 channels, which is below what Hopper's wide instructions take: every row count goes through
m16n8k16, and small matrices still fill the GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

from penstock.backend.torch.triton.launch import FLOATS, ceil_div, expect, interprets
from penstock.backend.torch.triton.linear import swizzle
from penstock.backend.torch.triton.numbers import product, rounded, widened
from penstock.formats import Layout, PackedMatrix, ScaleForm

CHANNELS = 32  # of a packed tile
STEP = 128  # inputs between two turns of the loop, where they divide
GROUP_TILES = 16  # channel tiles that run side by side


class DeviceCodes(NamedTuple):
    """A packed matrix of group codes on a device; the numbers are `PackedMatrix`'s.

    Attributes:
        words: codes, four bytes each.  # flat i32
        scales, subscales, mins, codebook: as packed, with their element kinds; empty where there are none.
    """

    n: int
    k: int
    words: torch.Tensor
    scales: torch.Tensor
    subscales: torch.Tensor
    mins: torch.Tensor
    codebook: torch.Tensor
    bits: int
    group: int
    super: int
    zero: int
    scale_form: ScaleForm


def device_codes(packed: PackedMatrix, device: torch.device | str) -> DeviceCodes:
    """The matrix on a device, in the bytes that it has.

    Raises:
        ValueError: the matrix is of floats.
    """
    if packed.layout is not Layout.CODES or packed.scales is None:
        raise ValueError(f"the matrix has layout {packed.layout.name}; group codes are needed. hint: see linear()")

    def moved(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None, kind: torch.dtype) -> torch.Tensor:
        if array is None:
            return torch.empty(0, dtype=kind, device=device)
        return torch.from_numpy(array.copy()).view(kind).to(device)

    halves = packed.scale_form is not ScaleForm.E8M0
    signed = packed.scale_form is ScaleForm.HALF
    return DeviceCodes(
        packed.n,
        packed.k,
        moved(packed.codes, torch.int32),
        moved(packed.scales, torch.float16 if halves else torch.uint8),
        moved(packed.subscales, torch.int8 if signed else torch.uint8),
        moved(packed.mins, torch.uint8 if packed.super else torch.float16),
        moved(packed.codebook, torch.uint8),
        packed.bits,
        packed.group,
        packed.super,
        packed.zero,
        packed.scale_form,
    )


@triton.jit
def plane(block: tl.tensor, vector: tl.tensor, lane: tl.tensor, LOW: tl.constexpr, WIDTH: tl.constexpr) -> tl.tensor:
    """What a plane of WIDTH bits from bit LOW on adds to codes.  # [channels, quads, 4] i32."""
    per: tl.constexpr = 8 // WIDTH
    word = tl.load(block + 32 * LOW + vector // per * 16 + lane)
    shift = (WIDTH * (vector % per))[:, :, None] + 8 * tl.arange(0, 4)[None, None, :]
    return ((word[:, :, None] >> shift) & ((1 << WIDTH) - 1)) << LOW


@triton.jit
def codes_of(words: tl.tensor, n: tl.tensor, quad: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """Codes of channels `n` of a tile and four inputs each of `quad`.  # [channels, quads · 4] i32."""
    block = words + (quad // 8 * (BITS * 32))[None, :]
    vector = (quad % 8 * 2)[None, :] + (n // 16)[:, None]
    lane = (n % 16)[:, None]
    if BITS == 8:
        code = plane(block, vector, lane, 0, 8)
    else:
        wide: tl.constexpr = BITS // 4 * 4
        middle: tl.constexpr = BITS // 2 % 2 * 2
        if wide:
            code = plane(block, vector, lane, 0, 4)
            if middle:
                code += plane(block, vector, lane, wide, 2)
        else:
            code = plane(block, vector, lane, 0, 2)
        if BITS % 2:
            code += plane(block, vector, lane, wide + middle, 1)
    return tl.reshape(code, (n.shape[0], quad.shape[0] * 4))


@triton.jit
def levels_of(
    scales: tl.tensor,
    subscales: tl.tensor,
    mins: tl.tensor,
    tile: tl.tensor,
    n: tl.tensor,
    group: tl.tensor,
    groups: tl.tensor,
    PER_SUPER: tl.constexpr,
    FORM: tl.constexpr,
    HAS_MINS: tl.constexpr,
) -> tl.tensor:
    """(scale, minimum) of one group of every channel of a tile.  # [channels] f32."""
    at = (tile * groups + group) * 32 + n
    low = tl.full((n.shape[0],), 0.0, tl.float32)
    if PER_SUPER == 0:
        if FORM == 1:  # exponents: 2^(e - 128), the last two below what normal floats reach
            e = tl.load(scales + at).to(tl.int32)
            bits = tl.where(e > 1, (e - 1) << 23, tl.where(e == 1, 0x400000, 0x200000))
            return bits.to(tl.float32, bitcast=True), low
        if HAS_MINS:
            low = tl.load(mins + at).to(tl.float32)
        return tl.load(scales + at).to(tl.float32), low
    top = (tile * (groups // PER_SUPER) + group // PER_SUPER) * (64 if HAS_MINS else 32) + n
    scale = tl.load(scales + top).to(tl.float32)
    if FORM == 3:  # four groups' six bits in three bytes
        three = subscales + (tile * (groups // 4) + group // 4) * 96 + n
        fourth = (tl.load(three) >> 6) | (tl.load(three + 32) >> 6 << 2) | (tl.load(three + 64) >> 6 << 4)
        plain = tl.load(three + tl.minimum(group % 4, 2) * 32) & 63
        return scale * (tl.where(group % 4 == 3, fourth, plain).to(tl.float32) - 32.0), low
    sub = tl.load(subscales + at)
    if HAS_MINS:
        low = tl.load(scales + top + 32).to(tl.float32)
        if FORM == 2:
            return scale * (sub & 15).to(tl.float32), low * (sub >> 4).to(tl.float32)
        low = low * tl.load(mins + at).to(tl.float32)
    return scale * sub.to(tl.float32), low


@triton.jit
def codes_kernel(
    x: tl.tensor,  # [T, K]
    words: tl.tensor,
    scales: tl.tensor,
    subscales: tl.tensor,
    mins: tl.tensor,
    codebook: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,  # [T, N]
    rows: tl.tensor,
    channels: tl.tensor,
    inputs: tl.tensor,
    group: tl.tensor,
    x_stride: tl.tensor,
    out_stride: tl.tensor,
    BLOCK_T: tl.constexpr,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
    BITS: tl.constexpr,
    ZERO: tl.constexpr,
    PER_SUPER: tl.constexpr,
    FORM: tl.constexpr,
    HAS_MINS: tl.constexpr,
    HAS_BOOK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GROUP_TILES: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """One tile of channels for a tile of rows."""
    tiles = (channels + 31) // 32
    row_tile, tile = swizzle(tl.program_id(0), (rows + BLOCK_T - 1) // BLOCK_T, tiles, GROUP_TILES)
    t = row_tile * BLOCK_T + tl.arange(0, BLOCK_T)
    n = tl.arange(0, 32)
    wide = tile.to(tl.int64)
    x_at = x + (t % rows).to(tl.int64)[:, None] * x_stride + tl.arange(0, PART)[None, :]
    words += wide * inputs * BITS
    kind: tl.constexpr = x.dtype.element_ty
    nought = tl.full((32, BLOCK_T), 0.0, tl.float32)
    total = nought
    for step in range(0, inputs, PART * PARTS):
        for part in tl.static_range(PARTS):
            first = step + part * PART
            code = codes_of(words, n, first // 4 + tl.arange(0, PART // 4), BITS)
            if HAS_BOOK:
                code = tl.load(codebook + code).to(tl.int32)
            value = (code | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + ZERO)  # exact, and no conversion
            right = tl.trans(tl.load(x_at + first))
            which = (wide, n, first // group, inputs // group)
            scale, low = levels_of(scales, subscales, mins, *which, PER_SUPER, FORM, HAS_MINS)
            dot = product(rounded(value, kind, WIDEN), right, nought, WIDEN)
            total = tl.fma(dot, scale[:, None] + nought, total)
            if HAS_MINS:
                ones = rounded(tl.full((32, PART), 1.0, tl.float32), kind, WIDEN)
                total = tl.fma(product(ones, right, nought, WIDEN), nought - low[:, None], total)
    channel = tile * 32 + n
    if HAS_BIAS:
        total += widened(tl.load(bias + channel, mask=channel < channels, other=0.0), WIDEN)[:, None]
    at = out + t.to(tl.int64)[None, :] * out_stride + channel[:, None]
    mask = (t < rows)[None, :] & (channel < channels)[:, None]
    tl.store(at, rounded(total, out.dtype.element_ty, WIDEN), mask=mask)


def linear_codes(
    x: torch.Tensor, w: DeviceCodes, bias: torch.Tensor | None = None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Product x · wᵀ + bias over weights of group codes, summed in f32 and rounded once.

    Args:
        x: # [T, K] f32, bf16 or f16
        w: # [N, K]
        bias: # [N] any float kind
        out: where to write, of any float kind; a new tensor of x's kind by default.  # [T, N]

    Raises:
        ValueError: shapes or kinds that do not fit.
    """
    rows = x.shape[0]
    expect("x", x, (-1, w.k), FLOATS)
    if bias is not None:
        expect("bias", bias, (w.n,), FLOATS)
    if out is None:
        out = torch.empty(rows, w.n, dtype=x.dtype, device=x.device)
    expect("out", out, (rows, w.n), FLOATS)
    if not rows:
        return out
    part = part_of(w.group, w.k)
    block, warps = (16, 4) if rows <= 16 else (32, 4) if rows <= 32 else (64, 4) if rows <= 64 else (128, 4)
    codes_kernel[(ceil_div(rows, block) * ceil_div(w.n, CHANNELS),)](
        x,
        *(w.words, w.scales, w.subscales, w.mins, w.codebook),
        x if bias is None else bias,
        out,
        rows,
        *(w.n, w.k, w.group),
        *(x.stride(0), out.stride(0)),
        BLOCK_T=block,
        PART=part,
        PARTS=STEP // part if w.k % STEP == 0 else 1,
        BITS=w.bits,
        ZERO=w.zero,
        PER_SUPER=w.super // w.group,
        FORM=int(w.scale_form),
        HAS_MINS=w.mins.numel() > 0 or w.scale_form is ScaleForm.NIBBLES,
        HAS_BOOK=w.codebook.numel() > 0,
        HAS_BIAS=bias is not None,
        GROUP_TILES=GROUP_TILES,
        WIDEN=interprets(codes_kernel),
        num_warps=warps,
        num_stages=4 if rows <= 64 else 3,
        enable_fp_fusion=False,
    )
    return out


def part_of(group: int, inputs: int) -> int:
    """Inputs of one product: a group, or as much of a long one as divides it and the inputs."""
    for part in (128, 64, 32, 16):
        if group % part == 0 and inputs % part == 0:
            return part
    raise ValueError(f"groups of {group} over {inputs} inputs are no multiples of 16.")
