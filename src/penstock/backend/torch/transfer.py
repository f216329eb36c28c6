"""Many small host arrays as one upload.

Knows nothing about what they mean. Invariant: whatever is sent for a step crosses to the device in one copy, and what
arrives are views of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_ALIGNMENT = 16
_TYPES = {
    np.dtype(np.int64): torch.int64,
    np.dtype(np.float64): torch.float64,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.uint8): torch.uint8,
}


def upload(arrays: list[npt.NDArray[Any]], device: torch.device) -> list[torch.Tensor]:
    """The arrays on the device, in their order and shapes: views of one buffer.

    Args:
        arrays: of int64, float64, float32 or uint8.
        device: where to; from pinned memory where it is a GPU.
    """
    offsets, total = [], 0
    for array in arrays:
        offsets.append(total)
        total += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    staged = torch.empty(max(total, _ALIGNMENT), dtype=torch.uint8, pin_memory=device.type == "cuda")
    host = staged.numpy()
    for offset, array in zip(offsets, arrays, strict=True):
        host[offset : offset + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    sent = staged.to(device, non_blocking=True)
    return [
        sent[offset : offset + array.nbytes].view(_TYPES[array.dtype]).view(array.shape)
        for offset, array in zip(offsets, arrays, strict=True)
    ]
