"""Launches whose kernels are compiled for Hopper: shapes as large as real ones, memory never touched."""

from functools import partial

import torch

from penstock.backend.torch.triton import linear

BF16 = torch.bfloat16


def linear_case(rows: int, kind: torch.dtype = BF16) -> None:
    linear(torch.empty(rows, 4096, dtype=kind), torch.empty(4096, 4096, dtype=kind))


CASES = {f"linear_{rows}": partial(linear_case, rows) for rows in (1, 17, 64, 257, 1024)}
CASES["linear_f32"] = partial(linear_case, 64, torch.float32)
