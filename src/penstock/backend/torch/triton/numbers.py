"""Arithmetic that kernels share: products of tiles and rounding, the same on a GPU and in the interpreter.

Knows nothing about where tiles lie. Invariant: an element of a product is a sum over K in ascending order that starts
at the accumulator; which tile it lies in changes nothing.

WIDEN stands for the interpreter, whose conversions lose subnormals of bf16, NaN of fp8, ties and carries: there they
are made of integer arithmetic, which gives what a GPU's instruction gives.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def widened(value: tl.tensor, WIDEN: tl.constexpr) -> tl.tensor:
    """The values as f32, exactly."""
    if WIDEN:
        if value.dtype == tl.bfloat16:
            return (value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
        if value.dtype == tl.float8e4nv:
            bits = value.to(tl.uint8, bitcast=True).to(tl.uint32)
            exponent = (bits >> 3) & 15
            normal = ((exponent + 120) << 23 | (bits & 7) << 20).to(tl.float32, bitcast=True)
            size = tl.where(exponent == 0, (bits & 7).to(tl.float32) * 0.001953125, normal)
            size = tl.where((bits & 127) == 127, float("nan"), size)
            return tl.where(bits > 127, -size, size)
    return value.to(tl.float32)


@triton.jit
def product(left: tl.tensor, right: tl.tensor, total: tl.tensor, WIDEN: tl.constexpr) -> tl.tensor:
    """Sum total + left · right, f32, without the shortcut of 19-bit products for f32 operands.

    WIDEN: both operands become f32 first, where they and their products are exact: the interpreter would multiply the
    bit patterns of bf16.
    """
    if WIDEN:
        return tl.dot(widened(left, WIDEN), widened(right, WIDEN), total, input_precision="ieee")
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def nearest(value: tl.tensor) -> tl.tensor:
    """The nearest integer, ties to even, of an f32 below 2^22: 1.5 · 2^23 leaves no bits for the rest."""
    return (value + 12582912.0) - 12582912.0


@triton.jit
def rounded(value: tl.tensor, kind: tl.constexpr, WIDEN: tl.constexpr) -> tl.tensor:
    """f32 values in another float kind, to nearest even; e4m3 saturates at 448."""
    if WIDEN and kind == tl.bfloat16:
        bits = value.to(tl.float32).to(tl.uint32, bitcast=True)
        up = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        chosen = tl.where(value != value, 0x7FC0, up)
        return chosen.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    if WIDEN and kind == tl.float8e4nv:
        bits = tl.minimum(tl.abs(value), 448.0).to(tl.float32).to(tl.uint32, bitcast=True)
        normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - 960
        small = nearest(tl.minimum(tl.abs(value), 1.0) * 512.0).to(tl.uint32)
        chosen = tl.where(tl.abs(value) < 0.015625, small, normal) | tl.where(value < 0, 128, 0).to(tl.uint32)
        chosen = tl.where(value != value, 127, chosen)
        return chosen.to(tl.uint8).to(tl.float8e4nv, bitcast=True)
    return value.to(kind)


@triton.jit
def greatest_size(value: tl.tensor, axis: tl.constexpr) -> tl.tensor:
    """Greatest |value| along an axis; NaN where one of them is NaN or infinite."""
    poison = tl.sum(value * 0.0, axis=axis)
    return tl.max(tl.abs(value), axis=axis) + poison


@triton.jit
def code_scale(greatest: tl.tensor, most: tl.constexpr) -> tl.tensor:
    """(scale of a code, what a value is multiplied with) where `most` stands for the greatest size.

    All below 2^-119 is nought under a scale of nought; a size of NaN gives a scale of NaN over codes of nought.
    """
    usable = greatest >= 1.504632769052528e-36
    scale = tl.where(usable, tl.div_rn(greatest, most + 0.0 * greatest), 0.0)
    inverse = tl.where(usable, tl.div_rn(most + 0.0 * greatest, tl.where(usable, greatest, 1.0)), 0.0)
    return tl.where(greatest != greatest, greatest, scale), inverse


@triton.jit
def coded(value: tl.tensor, inverse: tl.tensor, kind: tl.constexpr, WIDEN: tl.constexpr) -> tl.tensor:
    """Codes of values: int8 to nearest even, or e4m3. NaN has the code of nought: its scale says what it is."""
    scaled = value * inverse
    scaled = tl.where(scaled != scaled, 0.0, scaled)
    if kind == tl.int8:
        return nearest(scaled).to(tl.int8)
    return rounded(scaled, kind, WIDEN)
