"""Products of codes of eight bits with codes of eight bits: W8A8, int8 under exact sums, and e4m3 under sums of f32.

Knows nothing about models. Invariant: an output element's bits depend on its own row and channel alone: every row count
takes the same K order in the same instruction, and no two programs share a sum (no split-K). Both sides carry scales, a
row's and a channel's, which multiply the sum. Tiles are those of linear.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from penstock.backend.torch.triton.launch import CODED, FLOATS, ceil_div, expect, expect_dense, interprets
from penstock.backend.torch.triton.linear import GROUP, swizzle, tile_of
from penstock.backend.torch.triton.norm import Codes
from penstock.backend.torch.triton.numbers import product, rounded, widened

BLOCK_K = 128  # one for every row count; sums of e4m3 go from the instruction's own precision to f32 as often


@triton.jit
def scaled_kernel(
    x: tl.tensor,  # [T, K] codes
    x_scales: tl.tensor,  # [T] f32
    w: tl.tensor,  # [N, K] codes
    w_scales: tl.tensor,  # [N] f32
    bias: tl.tensor,  # [N]
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
    tiles = (channels + BLOCK_N - 1) // BLOCK_N
    row_tile, channel_tile = swizzle(tl.program_id(0), (rows + BLOCK_T - 1) // BLOCK_T, tiles, GROUP)
    t = row_tile * BLOCK_T + tl.arange(0, BLOCK_T)
    n = channel_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    x_at = x + (t % rows).to(tl.int64)[:, None] * x_stride + k[None, :]
    w_at = w + (n % channels).to(tl.int64)[:, None] * w_stride + k[None, :]
    whole: tl.constexpr = x.dtype.element_ty == tl.int8
    nought: tl.constexpr = 0 if whole else 0.0
    total = tl.full((BLOCK_N, BLOCK_T), nought, tl.int32 if whole else tl.float32)
    for first in range(0, inputs, BLOCK_K):
        inside = (first + k < inputs)[None, :]
        left = tl.load(w_at) if EVEN_K else tl.load(w_at, mask=inside, other=nought)
        right = tl.trans(tl.load(x_at) if EVEN_K else tl.load(x_at, mask=inside, other=nought))
        if whole:
            total = tl.dot(left, right, total, out_dtype=tl.int32)
        elif WIDEN:
            total = product(left, right, total, WIDEN)
        else:
            total = tl.dot(left, right, total, max_num_imprecise_acc=BLOCK_K)
        x_at += BLOCK_K
        w_at += BLOCK_K
    value = total.to(tl.float32) * tl.load(w_scales + n % channels)[:, None] * tl.load(x_scales + t % rows)[None, :]
    if HAS_BIAS:
        value += widened(tl.load(bias + n % channels), WIDEN)[:, None]
    at = out + t.to(tl.int64)[None, :] * out_stride + n[:, None]
    tl.store(at, rounded(value, out.dtype.element_ty, WIDEN), mask=(t < rows)[None, :] & (n < channels)[:, None])


def linear_scaled(
    x: Codes, w: Codes, kind: torch.dtype, bias: torch.Tensor | None = None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Product x · wᵀ + bias of codes under scales, in a float kind, rounded once.

    Args:
        x: rows of int8 or e4m3, a scale each.  # [T, K]
        w: channels of the same kind, a scale each.  # [N, K]
        kind: of a new output.
        bias: # [N] any float kind
        out: where to write instead, of any float kind.  # [T, N]

    Raises:
        ValueError: shapes or kinds that do not fit.
    """
    rows, inputs = x.codes.shape[0], x.codes.shape[-1]
    channels = w.codes.shape[0]
    expect("x", x.codes, (-1, -1), CODED)
    expect("w", w.codes, (-1, inputs), (x.codes.dtype,))
    expect_dense("x's scales", x.scales, (rows,), (torch.float32,))
    expect_dense("w's scales", w.scales, (channels,), (torch.float32,))
    if bias is not None:
        expect("bias", bias, (channels,), FLOATS)
    if out is None:
        out = torch.empty(rows, channels, dtype=kind, device=x.codes.device)
    expect("out", out, (rows, channels), FLOATS)
    if not rows or not channels:
        return out
    tile = tile_of(rows if x.codes.dtype == torch.int8 else min(rows, 512))  # two sums of e4m3 must fit registers
    scaled_kernel[(ceil_div(rows, tile.rows) * ceil_div(channels, tile.channels),)](
        *x,
        *w,
        w.scales if bias is None else bias,
        out,
        *(rows, channels, inputs),
        *(x.codes.stride(0), w.codes.stride(0), out.stride(0)),
        BLOCK_T=tile.rows,
        BLOCK_N=tile.channels,
        BLOCK_K=BLOCK_K,
        GROUP=GROUP,
        EVEN_K=inputs % BLOCK_K == 0,
        HAS_BIAS=bias is not None,
        WIDEN=interprets(scaled_kernel),
        num_warps=tile.warps,
        num_stages=tile.stages,
        enable_fp_fusion=False,
    )
    return out
