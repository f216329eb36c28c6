"""Arithmetic that kernels share: products of tiles and rounding, the same on a GPU and in the interpreter.

Knows nothing about where tiles lie. Invariant: an element of a product is a sum over K in ascending order that starts
at the accumulator; which tile it lies in changes nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(left: tl.tensor, right: tl.tensor, total: tl.tensor, WIDEN: tl.constexpr) -> tl.tensor:
    """Sum total + left · right, f32, without the shortcut of 19-bit products for f32 operands.

    WIDEN: both operands become f32 first: bf16 values and their products are exact there, and the interpreter needs it.
    """
    if WIDEN:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), total, input_precision="ieee")
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def rounded(value: tl.tensor, kind: tl.constexpr, WIDEN: tl.constexpr) -> tl.tensor:
    """f32 values in another float kind, to nearest even.

    WIDEN: bf16 by integer arithmetic, since the interpreter rounds halves away from zero and loses carries.
    """
    if WIDEN and kind == tl.bfloat16:
        bits = value.to(tl.float32).to(tl.uint32, bitcast=True)
        up = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        chosen = tl.where(value != value, 0x7FC0, up)
        return chosen.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return value.to(kind)
