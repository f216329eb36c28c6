"""What every launcher asks before it starts a kernel: shapes, kinds of numbers, and whether Triton interprets here.

Knows nothing about operations. Invariant: a kernel starts only over tensors whose shapes, strides and kinds were
compared with one another; what fits nothing is a ValueError that names the tensor, what it is and what it must be.
"""

from __future__ import annotations

from typing import Any

import torch
import triton

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
FP8 = torch.float8_e4m3fn
CODED = (torch.int8, FP8)  # kinds that a scale belongs to
MAX_INDEX = 2**31 - 1  # of what kernels count in 32 bits: rows, channels, positions


def interprets(kernel: Any) -> bool:
    """Whether a kernel runs in Triton's interpreter, whose product of bf16 is one of bit patterns, as integers.

    Kernels then widen the operands of products to float32, exactly, and round to bf16 by integer arithmetic.
    """
    return not isinstance(kernel, triton.JITFunction)


def expect(name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    """Compares a tensor with what a kernel reads; -1 in `shape` is any size, elements of the last axis are neighbours.

    Raises:
        ValueError: another number of dimensions, size, kind or a stride within the last axis.
    """
    fits = tensor.dim() == len(shape) and all(
        want in (-1, have) for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; {shape} is needed. hint: -1 stands for any size")
    if tensor.dtype not in dtypes:
        kinds = ", ".join(str(each) for each in dtypes)
        raise ValueError(f"{name} holds {tensor.dtype}; the kernel reads {kinds}.")
    if tensor.dim() and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(f"{name} has stride {tensor.stride(-1)} in its last axis; 1 is needed. hint: .contiguous()")
    if any(size > MAX_INDEX for size in tensor.shape):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; an axis holds {MAX_INDEX} at most.")


def expect_dense(name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    """`expect`, and no gaps between rows either.

    Raises:
        ValueError: as `expect`, or the tensor is not contiguous.
    """
    expect(name, tensor, shape, dtypes)
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()}; it must be contiguous. hint: .contiguous()")


def ceil_div(value: int, by: int) -> int:
    """How many parts of size `by` hold `value`."""
    return -(-value // by)


def power_of_two(value: int, least: int = 1) -> int:
    """The least power of two that is neither below `value` nor below `least`."""
    return max(least, 1 << (value - 1).bit_length())
