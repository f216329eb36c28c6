"""A tensor as it lies in a file: its storage kind, logical shape and raw bytes.

Knows nothing about models or kernels. Invariant: `data` is a flat read-only uint8 view of exactly
`num_bytes(storage, shape)` bytes, usually of a memory map; nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class BlockFormat(NamedTuple):
    """Weights per block and bytes per block of a storage kind."""

    block: int
    bytes: int


class Storage(str, Enum):
    """How weights are stored in a file. The block kinds are GGUF's; the first axis of `shape` is the output channel."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"
    Q4_0 = "Q4_0"
    Q4_K = "Q4_K"
    Q6_K = "Q6_K"


BLOCKS: dict[Storage, BlockFormat] = {
    Storage.F32: BlockFormat(1, 4),
    Storage.F16: BlockFormat(1, 2),
    Storage.BF16: BlockFormat(1, 2),
    Storage.Q8_0: BlockFormat(32, 34),
    Storage.Q4_0: BlockFormat(32, 18),
    Storage.Q4_K: BlockFormat(256, 144),
    Storage.Q6_K: BlockFormat(256, 210),
}


@dataclass(frozen=True, slots=True)
class RawTensor:
    """One stored tensor.

    Attributes:
        name: as in the file, for messages.
        storage: kind of its bytes.
        shape: logical, outputs first: (N, K) for a projection, (K,) for a vector.
        data: flat uint8 view, read-only.  # [num_bytes] u8
    """

    name: str
    storage: Storage
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]


def num_bytes(storage: Storage, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor of that kind and shape occupies; the last axis must be a whole number of blocks.

    Raises:
        ValueError: when it is not.
    """
    block, size = BLOCKS[storage]
    count = 1
    for dim in shape:
        count *= dim
    if shape and shape[-1] % block:
        raise ValueError(f"last axis {shape[-1]} is not a multiple of the {storage.value} block of {block}")
    return count // block * size
