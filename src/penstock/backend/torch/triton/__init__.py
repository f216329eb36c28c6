"""Kernels for GPUs, one operation a file: plain tensors in, plain tensors out.

Knows nothing about models, slots or steps. Invariant: a row's bits depend on that row alone, whatever else is in the
batch: see each file for how.
"""

from penstock.backend.torch.triton.linear import linear

__all__ = ["linear"]
