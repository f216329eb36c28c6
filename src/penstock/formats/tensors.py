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
    Q4_1 = "Q4_1"
    Q5_0 = "Q5_0"
    Q5_1 = "Q5_1"
    Q2_K = "Q2_K"
    Q3_K = "Q3_K"
    Q4_K = "Q4_K"
    Q5_K = "Q5_K"
    Q6_K = "Q6_K"
    IQ4_NL = "IQ4_NL"
    IQ4_XS = "IQ4_XS"
    MXFP4 = "MXFP4"


BLOCKS: dict[Storage, BlockFormat] = {
    Storage.F32: BlockFormat(1, 4),
    Storage.F16: BlockFormat(1, 2),
    Storage.BF16: BlockFormat(1, 2),
    Storage.Q8_0: BlockFormat(32, 34),
    Storage.Q4_0: BlockFormat(32, 18),
    Storage.Q4_1: BlockFormat(32, 20),
    Storage.Q5_0: BlockFormat(32, 22),
    Storage.Q5_1: BlockFormat(32, 24),
    Storage.Q2_K: BlockFormat(256, 84),
    Storage.Q3_K: BlockFormat(256, 110),
    Storage.Q4_K: BlockFormat(256, 144),
    Storage.Q5_K: BlockFormat(256, 176),
    Storage.Q6_K: BlockFormat(256, 210),
    Storage.IQ4_NL: BlockFormat(32, 18),
    Storage.IQ4_XS: BlockFormat(256, 136),
    Storage.MXFP4: BlockFormat(32, 17),
}

# Kinds that files hold and nobody here reads, by name: their sizes still place the tensors that lie behind them.
FOREIGN_BLOCKS: dict[str, BlockFormat] = {
    "Q8_1": BlockFormat(32, 40),
    "Q8_K": BlockFormat(256, 292),
    "IQ1_S": BlockFormat(256, 50),
    "IQ1_M": BlockFormat(256, 56),
    "IQ2_XXS": BlockFormat(256, 66),
    "IQ2_XS": BlockFormat(256, 74),
    "IQ2_S": BlockFormat(256, 82),
    "IQ3_XXS": BlockFormat(256, 98),
    "IQ3_S": BlockFormat(256, 110),
    "TQ1_0": BlockFormat(256, 54),
    "TQ2_0": BlockFormat(256, 66),
    "NVFP4": BlockFormat(64, 36),
    "Q1_0": BlockFormat(128, 18),
    "I8": BlockFormat(1, 1),
    "I16": BlockFormat(1, 2),
    "I32": BlockFormat(1, 4),
    "I64": BlockFormat(1, 8),
    "F64": BlockFormat(1, 8),
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
    return _num_bytes(storage.value, BLOCKS[storage], shape)


def foreign_bytes(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor of a kind of `FOREIGN_BLOCKS` and that shape occupies.

    Raises:
        ValueError: the last axis is no whole number of blocks.
        KeyError: the kind is not among them.
    """
    return _num_bytes(kind, FOREIGN_BLOCKS[kind], shape)


def _num_bytes(kind: str, form: BlockFormat, shape: tuple[int, ...]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    if shape and shape[-1] % form.block:
        raise ValueError(f"last axis {shape[-1]} is not a multiple of the {kind} block of {form.block}")
    return count // form.block * form.bytes
