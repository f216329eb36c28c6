"""Float values of GGUF's stored blocks, in plain numpy: the reference for packing and kernels.

Knows nothing about files or models. Invariant: every value is the float32 result of the format's own order of
operations, bit for bit. Source: the GGUF block layouts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from penstock.formats.tensors import BLOCKS, RawTensor, Storage

_U8 = npt.NDArray[np.uint8]
_F32 = npt.NDArray[np.float32]


def dequantize(tensor: RawTensor) -> _F32:
    """All values of a tensor.  # shape of the tensor, f32.

    Raises:
        ValueError: the bytes are no whole number of blocks.
    """
    return dequantize_bytes(tensor.data, tensor.storage).reshape(tensor.shape)


def dequantize_bytes(data: _U8, storage: Storage) -> _F32:
    """Values of consecutive blocks.  # [n · block] f32.

    Raises:
        ValueError: the bytes are no whole number of blocks.
    """
    size = BLOCKS[storage].bytes
    if len(data) % size:
        raise ValueError(f"{len(data)} bytes are no multiple of the {storage.value} block of {size}")
    blocks = np.ascontiguousarray(data).reshape(-1, size)
    with np.errstate(invalid="ignore", over="ignore"):
        return _RULES[storage](blocks).reshape(-1)


def _f32(blocks: _U8) -> _F32:
    return blocks.view("<f4").astype(np.float32)


def _f16(blocks: _U8) -> _F32:
    return blocks.view("<f2").astype(np.float32)


def _bf16(blocks: _U8) -> _F32:
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _q8_0(blocks: _U8) -> _F32:
    """Block: f16 scale, 32 signed bytes."""
    scale = _f16(np.ascontiguousarray(blocks[:, :2]))  # [n, 1] f32
    codes = np.ascontiguousarray(blocks[:, 2:]).view(np.int8)
    return codes.astype(np.float32) * scale


def _q4_0(blocks: _U8) -> _F32:
    """Block: f16 scale, 32 codes of 4 bits around 8; byte i holds weights i and i + 16."""
    scale = _f16(np.ascontiguousarray(blocks[:, :2]))  # [n, 1] f32
    packed = blocks[:, 2:]
    codes = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.int8) - np.int8(8)  # [n, 32] i8
    return codes.astype(np.float32) * scale


def q4_k_scales(packed: _U8) -> tuple[_U8, _U8]:
    """The 6-bit scales and minima of Q4_K's eight groups.  # [n, 12] u8 → 2 x [n, 8] u8."""
    low, minima, rest = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (rest & 15) | ((low >> 2) & 48)], axis=1)
    return scales, np.concatenate([minima & 63, (rest >> 4) | ((minima >> 2) & 48)], axis=1)


def _q4_k(blocks: _U8) -> _F32:
    """Block: f16 scale and minimum, eight 6-bit pairs, 256 codes of 4 bits; groups 2j and 2j + 1 share 32 bytes."""
    count = len(blocks)
    scale = _f16(np.ascontiguousarray(blocks[:, 0:2]))  # [n, 1] f32
    minimum = _f16(np.ascontiguousarray(blocks[:, 2:4]))
    scales, minima = q4_k_scales(blocks[:, 4:16])
    packed = blocks[:, 16:].reshape(count, 4, 1, 32)
    codes = np.concatenate([packed & 15, packed >> 4], axis=2).reshape(count, 8, 32)
    step = (scale * scales.astype(np.float32)).reshape(count, 8, 1)
    base = (minimum * minima.astype(np.float32)).reshape(count, 8, 1)
    values: _F32 = step * codes.astype(np.float32) - base
    return values


def _q6_k(blocks: _U8) -> _F32:
    """Block: 256 codes of 4 low and 2 high bits around 32, sixteen signed byte scales, f16 scale."""
    count = len(blocks)
    low, high = blocks[:, :128].reshape(count, 2, 1, 64), blocks[:, 128:192].reshape(count, 2, 1, 32)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    scale = _f16(np.ascontiguousarray(blocks[:, 208:210]))  # [n, 1] f32
    lows = np.concatenate([low & 15, low >> 4], axis=2).reshape(count, 8, 32)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 1, 4, 1)
    highs = ((high >> shifts) & 3).reshape(count, 8, 32)
    codes = (lows | (highs << 4)).astype(np.int8) - np.int8(32)
    step = (scale * scales).reshape(count, 16, 1)
    values: _F32 = step * codes.reshape(count, 16, 16).astype(np.float32)
    return values


_RULES: dict[Storage, Callable[[_U8], _F32]] = {
    Storage.F32: _f32,
    Storage.F16: _f16,
    Storage.BF16: _bf16,
    Storage.Q8_0: _q8_0,
    Storage.Q4_0: _q4_0,
    Storage.Q4_K: _q4_k,
    Storage.Q6_K: _q6_k,
}
