"""RMSNorm of rows, with the sum of the residual before it and the quantization of activations after it.

Knows nothing about layers. Invariant: a program has one whole row, so that no other row can change its bits.
Source: Zhang and Sennrich 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from penstock.backend.torch.triton.launch import CODED, FLOATS, expect, interprets, power_of_two
from penstock.backend.torch.triton.numbers import code_scale, coded, greatest_size, rounded, widened

MAX_WIDTH = 32768  # elements that a program holds


class Codes(NamedTuple):
    """Rows of eight bits under one scale each.

    Attributes:
        codes: # [T, N] i8 or e4m3
        scales: # [T] f32
    """

    codes: torch.Tensor
    scales: torch.Tensor


@triton.jit
def norm_kernel(
    x: tl.tensor,  # [T, N]; becomes x + branch_scale · branch with HAS_BRANCH
    branch: tl.tensor,  # [T, N]
    weight: tl.tensor,  # [N]
    out: tl.tensor,  # [T, N] floats or codes
    scales: tl.tensor,  # [T] f32 with CODES
    width: tl.tensor,
    x_stride: tl.tensor,
    branch_stride: tl.tensor,
    out_stride: tl.tensor,
    eps: tl.tensor,
    branch_scale: tl.tensor,
    BLOCK: tl.constexpr,
    HAS_BRANCH: tl.constexpr,
    NORM: tl.constexpr,
    CODES: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK)
    inside = n < width
    value = widened(tl.load(x + row * x_stride + n, mask=inside, other=0.0), WIDEN)
    if HAS_BRANCH:
        added = widened(tl.load(branch + row * branch_stride + n, mask=inside, other=0.0), WIDEN)
        stored = rounded(tl.fma(added, branch_scale + 0.0 * added, value), x.dtype.element_ty, WIDEN)
        tl.store(x + row * x_stride + n, stored, mask=inside)
        value = widened(stored, WIDEN)
    if NORM:
        mean = tl.sum(value * value, axis=0) / width
        scale = tl.div_rn(1.0, tl.sqrt_rn(mean + eps))
        value = value * scale * widened(tl.load(weight + n, mask=inside, other=0.0), WIDEN)
    if CODES:
        kind: tl.constexpr = out.dtype.element_ty
        most: tl.constexpr = 127.0 if kind == tl.int8 else 448.0
        scale, inverse = code_scale(greatest_size(tl.where(inside, value, 0.0), 0), most)
        tl.store(scales + row, scale)
        tl.store(out + row * out_stride + n, coded(value, inverse, kind, WIDEN), mask=inside)
    else:
        tl.store(out + row * out_stride + n, rounded(value, out.dtype.element_ty, WIDEN), mask=inside)


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    branch: torch.Tensor | None = None,
    branch_scale: float = 1.0,
) -> torch.Tensor:
    """Rows x / sqrt(mean(x²) + eps) · weight, in x's kind.  # [T, N].

    Args:
        x: residual; where a branch is given, x becomes x + branch_scale · branch first, rounded to x's kind.  # [T, N]
        weight: # [N] any float kind, an offset already added
        eps: added to the mean.
        branch: # [T, N] any float kind, or None
        branch_scale: multiplies the branch.

    Raises:
        ValueError: shapes or kinds that do not fit, or rows longer than MAX_WIDTH.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, weight, eps, (branch, branch_scale), Codes(out, out))
    return out


def rms_norm_codes(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    kind: torch.dtype,
    branch: torch.Tensor | None = None,
    branch_scale: float = 1.0,
) -> Codes:
    """`rms_norm` as codes, int8 with scale max|row| / 127 or e4m3 with max|row| / 448, to nearest even.

    A row with NaN or infinity in it gets a scale of NaN.

    Raises:
        ValueError: as `rms_norm`, or a kind that is no code.
    """
    out = _codes(x, kind)
    _launch(x, weight, eps, (branch, branch_scale), out)
    return out


def rows_as_codes(x: torch.Tensor, kind: torch.dtype) -> Codes:
    """Rows as codes, as `rms_norm_codes` makes them.  # x [T, N] floats.

    Raises:
        ValueError: shapes or kinds that do not fit.
    """
    out = _codes(x, kind)
    _launch(x, None, 0.0, (None, 1.0), out)
    return out


def _codes(x: torch.Tensor, kind: torch.dtype) -> Codes:
    """Room for the codes of x."""
    if kind not in CODED:
        raise ValueError(f"codes of {kind} are asked for; there are {', '.join(str(each) for each in CODED)}.")
    codes = torch.empty(x.shape, dtype=kind, device=x.device)
    return Codes(codes, torch.empty(x.shape[0], dtype=torch.float32, device=x.device))


def _launch(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    added: tuple[torch.Tensor | None, float],
    out: Codes,
) -> None:
    branch, branch_scale = added
    expect("x", x, (-1, -1), FLOATS)
    rows, width = x.shape
    if width > MAX_WIDTH:
        raise ValueError(f"x has rows of {width}; a program holds {MAX_WIDTH} at most.")
    if weight is not None:
        expect("weight", weight, (width,), FLOATS)
    if branch is not None:
        expect("branch", branch, (rows, width), FLOATS)
    if not rows:
        return
    block = power_of_two(width)
    norm_kernel[(rows,)](
        x,
        x if branch is None else branch,
        x if weight is None else weight,
        out.codes,
        out.scales,
        width,
        x.stride(0),
        0 if branch is None else branch.stride(0),
        out.codes.stride(0),
        eps,
        branch_scale,
        BLOCK=block,
        HAS_BRANCH=branch is not None,
        NORM=weight is not None,
        CODES=out.codes.dtype in CODED,
        WIDEN=interprets(norm_kernel),
        num_warps=min(16, max(1, block // 512)),
        enable_fp_fusion=False,
    )
