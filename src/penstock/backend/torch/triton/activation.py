"""Gated activation: out = activation(gate) · up over the two halves of a projection's rows.

Knows nothing about layers. Invariant: element by element, so that no other row can change a bit.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from penstock.backend.torch.triton.launch import FLOATS, ceil_div, expect, interprets
from penstock.backend.torch.triton.numbers import rounded, widened

BLOCK = 1024
# Numbers of penstock.model.Activation's names here.
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "swiglu_oai": 3}


@triton.jit
def sigmoid(x: tl.tensor) -> tl.tensor:
    """1 / (1 + e^-x)."""
    return tl.div_rn(1.0 + 0.0 * x, 1.0 + tl.exp(-x))


@triton.jit
def gated(gate: tl.tensor, up: tl.tensor, clamp: tl.tensor, KIND: tl.constexpr, CLAMP: tl.constexpr) -> tl.tensor:
    """activation(gate) · up of f32 tiles; CLAMP limits gate from above and up from both sides first."""
    if CLAMP:
        gate = tl.where(gate > clamp, clamp, gate)
        up = tl.where(up > clamp, clamp, tl.where(up < -clamp, -clamp, up))
    if KIND == 0:
        active = gate * sigmoid(gate)
    elif KIND == 1:  # the tanh form: 0.5 (1 + tanh u) = sigmoid(2u)
        active = gate * sigmoid(tl.fma(gate * gate * gate, 0.044715 + 0.0 * gate, gate) * 1.59576912)
    elif KIND == 2:
        active = 0.5 * gate * (1.0 + tl.erf(gate * 0.70710678))
    else:
        active = gate * sigmoid(gate * 1.702)
        up = up + 1.0
    return active * up


@triton.jit
def gated_kernel(
    x: tl.tensor,  # [T, 2 · N]: gate, then up
    out: tl.tensor,  # [T, N]
    width: tl.tensor,
    x_stride: tl.tensor,
    out_stride: tl.tensor,
    clamp: tl.tensor,
    BLOCK: tl.constexpr,
    KIND: tl.constexpr,
    CLAMP: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """A stretch of one row."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < width
    gate = widened(tl.load(x + row * x_stride + n, mask=inside, other=0.0), WIDEN)
    up = widened(tl.load(x + row * x_stride + width + n, mask=inside, other=0.0), WIDEN)
    value = gated(gate, up, clamp, KIND, CLAMP)
    tl.store(out + row * out_stride + n, rounded(value, out.dtype.element_ty, WIDEN), mask=inside)


def activation_number(name: str) -> int:
    """The kernel's number of an activation by the name that penstock.model.Activation gives it.

    Raises:
        ValueError: a name that no kernel has.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} has no kernel; there are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def gated_activation(x: torch.Tensor, name: str, clamp: float = 0.0) -> torch.Tensor:
    """activation(gate) · up, in x's kind.  # [T, N].

    Args:
        x: gate and up beside each other.  # [T, 2 · N]
        name: of the activation: a value of penstock.model.Activation.
        clamp: limits gate from above and up from both sides first; 0 is no limit.

    Raises:
        ValueError: shapes, kinds or a name that do not fit.
    """
    expect("x", x, (-1, -1), FLOATS)
    number = activation_number(name)
    rows, both = x.shape
    if both % 2:
        raise ValueError(f"x has rows of {both}; gate and up need an even number.")
    out = torch.empty(rows, both // 2, dtype=x.dtype, device=x.device)
    if rows and both:
        grid = (rows, ceil_div(both // 2, BLOCK))
        options: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": False}
        strides = (x.stride(0), out.stride(0))
        flags = {"KIND": number, "CLAMP": clamp > 0, "WIDEN": interprets(gated_kernel)}
        gated_kernel[grid](x, out, both // 2, *strides, clamp, BLOCK=BLOCK, **flags, **options)
    return out
