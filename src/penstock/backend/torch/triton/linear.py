"""Products with float weights: out = x · wᵀ + bias, of bf16, f16 or f32.

Knows nothing about models. Invariant: an output element's bits depend on its own row of x and its own channel of w
alone: every row count takes the same K order in the same instruction, and no two programs share a sum (no split-K).

Channels, not rows, are the side of 64 of a Hopper matrix instruction (m64nNk16) and rows its N side, which may be
anything from 8: so one row and a thousand go through the same instruction, and only the tile sizes differ. `tile_of`
says which tile a row count takes; its channels are a multiple of 64 and its warps of 4, without which the compiler
would choose another instruction.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from penstock.backend.torch.triton.launch import FLOATS, ceil_div, expect, interprets
from penstock.backend.torch.triton.numbers import product, rounded

BLOCK_K = 64  # one for every row count
GROUP = 8  # channel tiles that run side by side, so that rows are read from the cache


class Tile(NamedTuple):
    """One program's share of the output.

    Attributes:
        rows, channels: of the tile.
        warps: of the program.
        stages: tiles of operands on their way.
    """

    rows: int
    channels: int
    warps: int
    stages: int


def tile_of(rows: int) -> Tile:
    """The tile for a row count: few rows are bound by reading weights, which many small programs do best."""
    if rows <= 16:
        return Tile(16, 64, 4, 6)
    if rows <= 32:
        return Tile(32, 64, 4, 5)
    if rows <= 64:
        return Tile(64, 64, 4, 4)
    if rows <= 512:
        return Tile(128, 128, 8, 4)
    return Tile(256, 128, 8, 3)


@triton.jit
def swizzle(program: tl.tensor, row_tiles: tl.tensor, channel_tiles: tl.tensor, GROUP: tl.constexpr) -> tl.tensor:
    """(row tile, channel tile) of a program: GROUP channel tiles go through all rows together."""
    group = program // (GROUP * row_tiles)
    first = group * GROUP
    size = tl.minimum(channel_tiles - first, GROUP)
    inside = program % (GROUP * row_tiles)
    return inside // size, first + inside % size


@triton.jit
def linear_kernel(
    x: tl.tensor,  # [T, K]
    w: tl.tensor,  # [N, K], the kind of x
    bias: tl.tensor,  # [N], or anything without HAS_BIAS
    out: tl.tensor,  # [T, N]
    rows: tl.tensor,
    channels: tl.tensor,
    inputs: tl.tensor,
    x_stride: tl.tensor,
    w_stride: tl.tensor,
    out_stride: tl.tensor,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """One tile of the output."""
    row_tiles = (rows + BLOCK_T - 1) // BLOCK_T
    row_tile, channel_tile = swizzle(tl.program_id(0), row_tiles, (channels + BLOCK_N - 1) // BLOCK_N, GROUP)
    t = row_tile * BLOCK_T + tl.arange(0, BLOCK_T)
    n = channel_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    # What lies beyond the last row or channel is computed from ones that exist and not stored.
    x_at = x + (t % rows).to(tl.int64)[:, None] * x_stride + k[None, :]
    w_at = w + (n % channels).to(tl.int64)[:, None] * w_stride + k[None, :]
    total = tl.full((BLOCK_N, BLOCK_T), 0.0, tl.float32)
    for first in range(0, inputs, BLOCK_K):
        if EVEN_K:
            left = tl.load(w_at)
            right = tl.load(x_at)
        else:
            inside = (first + k < inputs)[None, :]
            left = tl.load(w_at, mask=inside, other=0.0)
            right = tl.load(x_at, mask=inside, other=0.0)
        total = product(left, tl.trans(right), total, WIDEN)
        x_at += BLOCK_K
        w_at += BLOCK_K
    if HAS_BIAS:
        total += tl.load(bias + n % channels).to(tl.float32)[:, None]
    at = out + t.to(tl.int64)[None, :] * out_stride + n[:, None]
    tl.store(at, rounded(total, out.dtype.element_ty, WIDEN), mask=(t < rows)[None, :] & (n < channels)[:, None])


def linear(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Product x · wᵀ + bias, summed in f32 and rounded once.

    Args:
        x: # [T, K] f32, bf16 or f16
        w: # [N, K] of the same kind
        bias: # [N] any float kind
        out: where to write, of any float kind; a new tensor of x's kind by default.  # [T, N]

    Raises:
        ValueError: shapes or kinds that do not fit.
    """
    rows, inputs, channels = x.shape[0], x.shape[-1], w.shape[0]
    expect("x", x, (-1, -1), FLOATS)
    expect("w", w, (-1, inputs), (x.dtype,))
    if bias is not None:
        expect("bias", bias, (channels,), FLOATS)
    if out is None:
        out = torch.empty(rows, channels, dtype=x.dtype, device=x.device)
    expect("out", out, (rows, channels), FLOATS)
    if rows and channels:
        tile = tile_of(rows)
        launch(x, w, bias, out, tile if x.dtype != torch.float32 else narrow(tile))
    return out


def narrow(tile: Tile) -> Tile:
    """The tile where elements are of four bytes: as many bytes on their way, and sums that fit registers."""
    return Tile(min(tile.rows, 64), 64, 4, min(tile.stages, 3))


def launch(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, tile: Tile) -> None:
    """Runs the kernel over checked tensors with one tile."""
    rows, inputs, channels = x.shape[0], x.shape[1], w.shape[0]
    grid = (ceil_div(rows, tile.rows) * ceil_div(channels, tile.channels),)
    linear_kernel[grid](
        x,
        w,
        w if bias is None else bias,
        out,
        rows,
        channels,
        inputs,
        x.stride(0),
        w.stride(0),
        out.stride(0),
        BLOCK_T=tile.rows,
        BLOCK_N=tile.channels,
        BLOCK_K=BLOCK_K,
        GROUP=GROUP,
        EVEN_K=inputs % BLOCK_K == 0,
        HAS_BIAS=bias is not None,
        WIDEN=interprets(linear_kernel),
        num_warps=tile.warps,
        num_stages=tile.stages,
        enable_fp_fusion=False,
    )
