"""A block of rows times a weight matrix, summed in f32.

Knows nothing about layers. Invariant: inputs are rounded to the weight's type and the sums are f32. A library chooses
its kernel, and with it the order of the sums, by the product's shape: where every call has as many rows, a row's bits
depend on the row alone.
"""

from __future__ import annotations

import torch

_PART_VALUES = 1 << 23  # of a bf16 matrix widened at once on the CPU


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """X · weightᵀ + bias.  # [T, N] f32.

    Args:
        x: # [T, K] f32
        weight: # [N, K] f32 or bf16
        bias: # [N] f32
    """
    if weight.dtype == torch.float32:
        out = torch.mm(x, weight.t())
    elif x.device.type == "cpu":
        out = _widened(x.to(weight.dtype).float(), weight)
    else:
        out = torch.mm(x.to(weight.dtype), weight.t(), out_dtype=torch.float32)
    return out if bias is None else out + bias


def _widened(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The same over parts of the outputs, each widened to f32: products of two bf16 are exact there."""
    rows = max(1, _PART_VALUES // weight.shape[1])
    return torch.cat([torch.mm(x, part.float().t()) for part in weight.split(rows)], dim=1)
