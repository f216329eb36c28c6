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

# What the sixteen codes of IQ4_NL and IQ4_XS stand for, and those of MXFP4 (E2M1, doubled).
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
FP4_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


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


def nibbles(packed: _U8) -> _U8:
    """Codes of blocks of 32: byte i holds weights i and i + 16.  # [n, 16] u8 → [n, 32] u8."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def fifth_bits(packed: _U8) -> _U8:
    """Bit i of a little-endian word is the fifth bit of weight i, in place.  # [n, 4] u8 → [n, 32] u8."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _q4_0(blocks: _U8) -> _F32:
    """Block: f16 scale, 32 codes of 4 bits around 8; byte i holds weights i and i + 16."""
    scale = _f16(np.ascontiguousarray(blocks[:, :2]))  # [n, 1] f32
    codes = nibbles(blocks[:, 2:]).astype(np.int8) - np.int8(8)  # [n, 32] i8
    return codes.astype(np.float32) * scale


def _q4_1(blocks: _U8) -> _F32:
    """Block: f16 scale, f16 offset, 32 codes of 4 bits."""
    scale, offset = _f16(np.ascontiguousarray(blocks[:, 0:2])), _f16(np.ascontiguousarray(blocks[:, 2:4]))
    values: _F32 = scale * nibbles(blocks[:, 4:]).astype(np.float32) + offset
    return values


def _q5_0(blocks: _U8) -> _F32:
    """Block: f16 scale, 32 top bits, 32 codes of 4 low bits; the five stand around 16."""
    scale = _f16(np.ascontiguousarray(blocks[:, 0:2]))
    codes = (nibbles(blocks[:, 6:]) | fifth_bits(blocks[:, 2:6])).astype(np.int8) - np.int8(16)
    values: _F32 = scale * codes.astype(np.float32)
    return values


def _q5_1(blocks: _U8) -> _F32:
    """Block: f16 scale, f16 offset, 32 top bits, 32 codes of 4 low bits."""
    scale, offset = _f16(np.ascontiguousarray(blocks[:, 0:2])), _f16(np.ascontiguousarray(blocks[:, 2:4]))
    codes = nibbles(blocks[:, 8:]) | fifth_bits(blocks[:, 4:8])
    values: _F32 = scale * codes.astype(np.float32) + offset
    return values


def _q2_k(blocks: _U8) -> _F32:
    """Block: sixteen bytes of 4-bit scale and minimum, 256 codes of 2 bits, f16 scale and minimum."""
    count = len(blocks)
    both = blocks[:, :16]
    scale, minimum = _f16(np.ascontiguousarray(blocks[:, 80:82])), _f16(np.ascontiguousarray(blocks[:, 82:84]))
    step = (scale * (both & 15).astype(np.float32)).reshape(count, 16, 1)
    base = (minimum * (both >> 4).astype(np.float32)).reshape(count, 16, 1)
    codes = crumbs(blocks[:, 16:80]).reshape(count, 16, 16)
    values: _F32 = step * codes.astype(np.float32) - base
    return values


def crumbs(packed: _U8) -> _U8:
    """256 codes of 2 bits; byte i of each 32 holds inputs i, i + 32, i + 64, i + 96.  # [n, 64] u8 → [n, 256] u8."""
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 1, 4, 1)
    return ((packed.reshape(len(packed), 2, 1, 32) >> shifts) & np.uint8(3)).reshape(len(packed), 256)


def q3_k_codes(high: _U8, low: _U8) -> _U8:
    """256 codes of 1 high and 2 low bits.  # [n, 32], [n, 64] u8 → [n, 256] u8."""
    return crumbs(low) | (_bit_columns(high) << np.uint8(2))


def _q3_k(blocks: _U8) -> _F32:
    """Block: 256 top bits, 256 codes of 2 low bits around 4, sixteen 6-bit scales around 32, f16 scale."""
    count = len(blocks)
    codes = q3_k_codes(blocks[:, :32], blocks[:, 32:96]).astype(np.int8) - np.int8(4)
    scale = _f16(np.ascontiguousarray(blocks[:, 108:110]))
    step = (scale * q3_k_scales(blocks[:, 96:108]).astype(np.float32)).reshape(count, 16, 1)
    values: _F32 = step * codes.reshape(count, 16, 16).astype(np.float32)
    return values


def q3_k_scales(packed: _U8) -> npt.NDArray[np.int8]:
    """The signed 6-bit scales of Q3_K's sixteen groups.  # [n, 12] u8 → [n, 16] i8."""
    low, high = packed[:, :8], packed[:, 8:]
    lows = np.concatenate([low & 15, low >> 4], axis=1)
    highs = np.concatenate([(high >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
    scales: npt.NDArray[np.int8] = (lows | (highs << 4)).astype(np.int8) - np.int8(32)
    return scales


def q4_k_scales(packed: _U8) -> tuple[_U8, _U8]:
    """The 6-bit scales and minima of Q4_K's eight groups.  # [n, 12] u8 → 2 x [n, 8] u8."""
    low, minima, rest = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (rest & 15) | ((low >> 2) & 48)], axis=1)
    return scales, np.concatenate([minima & 63, (rest >> 4) | ((minima >> 2) & 48)], axis=1)


def q4_k_codes(packed: _U8) -> _U8:
    """256 codes of 4 bits; 32 bytes hold 32 inputs and, above them, the next 32.  # [n, 128] u8 → [n, 256] u8."""
    pairs = packed.reshape(len(packed), 4, 1, 32)
    return np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(len(packed), 256)


def _q4_k(blocks: _U8) -> _F32:
    """Block: f16 scale and minimum, eight 6-bit pairs, 256 codes of 4 bits; groups 2j and 2j + 1 share 32 bytes."""
    return _scaled_pairs(blocks, q4_k_codes(blocks[:, 16:]))


def _scaled_pairs(blocks: _U8, codes: _U8) -> _F32:
    """Values under the head that Q4_K and Q5_K share.  # codes [n, 256] u8."""
    count = len(blocks)
    scale, minimum = _f16(np.ascontiguousarray(blocks[:, 0:2])), _f16(np.ascontiguousarray(blocks[:, 2:4]))
    scales, minima = q4_k_scales(blocks[:, 4:16])
    step = (scale * scales.astype(np.float32)).reshape(count, 8, 1)
    base = (minimum * minima.astype(np.float32)).reshape(count, 8, 1)
    values: _F32 = step * codes.reshape(count, 8, 32).astype(np.float32) - base
    return values


def q5_k_codes(high: _U8, low: _U8) -> _U8:
    """256 codes of 5 bits; top bit j of byte i is of input 32 · j + i.  # [n, 32], [n, 128] u8 → [n, 256] u8."""
    return q4_k_codes(low) | (_bit_columns(high) << np.uint8(4))


def _bit_columns(packed: _U8) -> _U8:
    """Bit j of byte i as input 32 · j + i.  # [n, 32] u8 → [n, 256] u8."""
    shifts = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    return ((packed[:, None, :] >> shifts) & np.uint8(1)).reshape(len(packed), 256)


def _q5_k(blocks: _U8) -> _F32:
    """Block: Q4_K's head, 256 top bits, 256 codes of 4 low bits."""
    return _scaled_pairs(blocks, q5_k_codes(blocks[:, 16:48], blocks[:, 48:]))


def q6_k_codes(low: _U8, high: _U8) -> _U8:
    """256 codes of 4 low and 2 high bits.  # [n, 128], [n, 64] u8 → [n, 256] u8."""
    halves = low.reshape(len(low), 2, 1, 64)
    lows = np.concatenate([halves & 15, halves >> 4], axis=2).reshape(len(low), 256)
    codes: _U8 = lows | (crumbs(high) << np.uint8(4))
    return codes


def _q6_k(blocks: _U8) -> _F32:
    """Block: 256 codes of 4 low and 2 high bits around 32, sixteen signed byte scales, f16 scale."""
    count = len(blocks)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    scale = _f16(np.ascontiguousarray(blocks[:, 208:210]))  # [n, 1] f32
    codes = q6_k_codes(blocks[:, :128], blocks[:, 128:192]).astype(np.int8) - np.int8(32)
    step = (scale * scales).reshape(count, 16, 1)
    values: _F32 = step * codes.reshape(count, 16, 16).astype(np.float32)
    return values


def _iq4_nl(blocks: _U8) -> _F32:
    """Block: f16 scale, 32 codes of 4 bits that name values of `IQ4_VALUES`."""
    scale = _f16(np.ascontiguousarray(blocks[:, 0:2]))
    values: _F32 = scale * _named(IQ4_VALUES, nibbles(blocks[:, 2:]))
    return values


def _iq4_xs(blocks: _U8) -> _F32:
    """Block: f16 scale, eight 6-bit scales around 32 (top pairs first, then low nibbles), 256 codes as in IQ4_NL."""
    count = len(blocks)
    scale = _f16(np.ascontiguousarray(blocks[:, 0:2]))
    step = (scale * iq4_xs_scales(blocks[:, 2:8]).astype(np.float32)).reshape(count, 8, 1)
    codes = nibbles(blocks[:, 8:].reshape(count * 8, 16)).reshape(count, 8, 32)
    values: _F32 = step * _named(IQ4_VALUES, codes)
    return values


def iq4_xs_scales(packed: _U8) -> npt.NDArray[np.int8]:
    """The signed 6-bit scales of IQ4_XS's eight groups.  # [n, 6] u8 → [n, 8] i8."""
    high, low = packed[:, :2], packed[:, 2:]
    lows = np.stack([low & 15, low >> 4], axis=2).reshape(-1, 8)
    highs = np.stack([(high >> shift) & 3 for shift in (0, 2, 4, 6)], axis=2).reshape(-1, 8)
    scales: npt.NDArray[np.int8] = (lows | (highs << 4)).astype(np.int8) - np.int8(32)
    return scales


def _mxfp4(blocks: _U8) -> _F32:
    """Block: an exponent e that scales by 2^(e - 128), 32 codes of 4 bits that name values of `FP4_VALUES`."""
    values: _F32 = e8m0_halves(blocks[:, :1]) * _named(FP4_VALUES, nibbles(blocks[:, 1:]))
    return values


def e8m0_halves(exponents: _U8) -> _F32:
    """2^(e - 128): half of what an E8M0 scale says, for values stored doubled. 255 is a number like the others."""
    e = exponents.astype(np.uint32)
    return np.where(e < 2, (e + 1) << 21, (e - 1) << 23).astype(np.uint32).view(np.float32)


def _named(values: tuple[int, ...], codes: _U8) -> _F32:
    return np.array(values, dtype=np.float32)[codes]


_RULES: dict[Storage, Callable[[_U8], _F32]] = {
    Storage.F32: _f32,
    Storage.F16: _f16,
    Storage.BF16: _bf16,
    Storage.Q8_0: _q8_0,
    Storage.Q4_0: _q4_0,
    Storage.Q4_1: _q4_1,
    Storage.Q5_0: _q5_0,
    Storage.Q5_1: _q5_1,
    Storage.Q2_K: _q2_k,
    Storage.Q3_K: _q3_k,
    Storage.Q4_K: _q4_k,
    Storage.Q5_K: _q5_k,
    Storage.Q6_K: _q6_k,
    Storage.IQ4_NL: _iq4_nl,
    Storage.IQ4_XS: _iq4_xs,
    Storage.MXFP4: _mxfp4,
}
