"""Packed weight layouts, in numpy: the truth that native/linear.h and native/pack.cc are tied to by golden bytes.

Knows nothing about models, files or threads. Invariant: packing loses nothing: `unpack(pack(raw))` equals the
dequantized stored tensor bit for bit, and no layout is more than 3 % larger than what it was made from.

Float layouts (f32, bf16, f16) keep the stored row-major [N, K] bytes, so that a memory map is used in place.

Group codes hold weight[n, k] = scale[n, g] · (code[n, k] - zero) - min[n, g], where g = k // group:

- Tiles of 32 output channels; N is padded with zero codes under zero scales. K is a multiple of 32.
- codes: [N / 32, K / 32, bits · 128] bytes. A block (32 channels × 32 inputs) has 16 vectors of 64 codes; vector
  2·c + h holds inputs 4·c … 4·c + 3 of channels 16·h … 16·h + 15: code 4·channel + input. `bits` is split into planes,
  8, or as needed 4, 2 and 1 bits, lowest bits of the code first; the planes follow each other. A plane of P bits stores
  vector i in its byte vector i // (8 / P), shifted left by P · (i % (8 / P)).
- one level (super = 0): scales f16 [N / 32, K / group, 32]; mins, if any, the same.
- two levels: scales f16 [N / 32, K / super, 32], or [N / 32, K / super, 2, 32] with the super-minima second;
  subscales i8 [N / 32, K / group, 32]; mins u8 [N / 32, K / group, 32]. scale = super-scale · subscale, minima alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from penstock.core import ModelFileError
from penstock.formats.tensors import BLOCKS, RawTensor, Storage, num_bytes

LAYOUT_VERSION = 1
LANES = 32

Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]
_Item = TypeVar("_Item", bound=np.generic)


class Layout(IntEnum):
    """Kinds of layout; the numbers are those of native/linear.h."""

    F32 = 0
    BF16 = 1
    CODES = 2
    F16 = 3


class CodeFormat(NamedTuple):
    """How group codes are laid out.

    Attributes:
        bits: of a code.
        group: inputs under one scale.
        super: inputs under one super-scale, or 0 for one level.
        zero: code that stands for nought.
        mins: whether a minimum is subtracted.
    """

    bits: int
    group: int
    super: int
    zero: int
    mins: bool


CODE_FORMATS: dict[Storage, CodeFormat] = {
    Storage.Q8_0: CodeFormat(8, 32, 0, 128, False),
    Storage.Q4_0: CodeFormat(4, 32, 0, 8, False),
    Storage.Q4_K: CodeFormat(4, 32, 256, 0, True),
    Storage.Q6_K: CodeFormat(6, 16, 256, 32, False),
}

FLOAT_LAYOUTS: dict[Storage, Layout] = {
    Storage.F32: Layout.F32,
    Storage.BF16: Layout.BF16,
    Storage.F16: Layout.F16,
}


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """One matrix as the kernels read it; arrays are flat uint8 and may be views of a map.

    Attributes:
        layout: kind.
        n, k: outputs and inputs.
        codes: group codes, or the values of a float layout.
        scales, subscales, mins: see the module's text; None where the layout has none.
        bits, group, super, zero: see `CodeFormat`; 0 for float layouts.
    """

    layout: Layout
    n: int
    k: int
    codes: Bytes
    scales: Bytes | None = None
    subscales: Bytes | None = None
    mins: Bytes | None = None
    bits: int = 0
    group: int = 0
    super: int = 0
    zero: int = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(a.size for a in (self.codes, self.scales, self.subscales, self.mins) if a is not None)


# Fills the arrays of an empty matrix from stored bytes: (storage, data, packed, rows). Native code uses many threads.
Packer = Callable[[str, Bytes, PackedMatrix, Rows | None], None]


def pack(raw: RawTensor, rows: Rows | None = None, *, packer: Packer | None = None) -> PackedMatrix:
    """The matrix in the layout its storage kind maps to; float kinds share memory where rows and alignment allow.

    Args:
        raw: stored tensor of two dimensions, outputs first.
        rows: stored rows taken, in this order; None is all of them.
        packer: fills group codes in place of numpy; same bytes.

    Raises:
        ModelFileError: shape, size or rows do not fit the storage kind.
    """
    n, k = _check(raw, rows)
    if raw.storage in FLOAT_LAYOUTS:
        width = BLOCKS[raw.storage].bytes
        values = _take(raw.data.reshape(raw.shape[0], k * width), rows).reshape(-1)
        if values.ctypes.data % width:
            values = values.copy()
        return PackedMatrix(FLOAT_LAYOUTS[raw.storage], n, k, values)
    packed = empty(CODE_FORMATS[raw.storage], n, k)
    if packer is not None:
        packer(raw.storage.value, raw.data, packed, rows)
    else:
        stored = _take(raw.data.reshape(raw.shape[0], -1), rows)
        _fill(packed, *_READERS[raw.storage](stored.reshape(n, -1, BLOCKS[raw.storage].bytes)))
    return packed


def empty(form: CodeFormat, n: int, k: int) -> PackedMatrix:
    """A group-code matrix of zeros with arrays of the right sizes, to be filled by a packer."""
    size, *sizes = array_bytes(form, n, k)
    scales, subscales, mins = (np.zeros(each, np.uint8) if each else None for each in sizes)
    codes = np.zeros(size, np.uint8)
    return PackedMatrix(
        Layout.CODES, n, k, codes, scales, subscales, mins, form.bits, form.group, form.super, form.zero
    )


def array_bytes(form: CodeFormat, n: int, k: int) -> tuple[int, int, int, int]:
    """Bytes of codes, scales, subscales and mins of a group-code matrix; 0 where it has none."""
    lanes = _padded(n)
    codes, groups = lanes * k // 8 * form.bits, lanes * (k // form.group)
    if not form.super:
        return codes, groups * 2, 0, groups * 2 if form.mins else 0
    return codes, lanes * (k // form.super) * (4 if form.mins else 2), groups, groups if form.mins else 0


def consistent(packed: PackedMatrix) -> bool:
    """Whether numbers and array sizes fit together, so that the kernels may read the matrix."""
    have = tuple(0 if a is None else a.size for a in (packed.codes, packed.scales, packed.subscales, packed.mins))
    if packed.layout is not Layout.CODES:
        width = 4 if packed.layout is Layout.F32 else 2
        return have == (packed.n * packed.k * width, 0, 0, 0)
    bits, group, top, zero = packed.bits, packed.group, packed.super, packed.zero
    groups_fit = group > 0 and packed.k % group == 0 and packed.k % 32 == 0
    if not (2 <= bits <= 8 and zero <= 255 and groups_fit and (group == packed.k or group in (16, 32, 64, 128, 256))):
        return False
    if top and (top % group or packed.k % top):
        return False
    return have == array_bytes(CodeFormat(bits, group, top, zero, packed.mins is not None), packed.n, packed.k)


def unpack(packed: PackedMatrix) -> npt.NDArray[np.float32]:
    """The weights, [N, K] f32."""
    n, k = packed.n, packed.k
    if packed.layout is Layout.F32:
        return packed.codes.view(np.float32).reshape(n, k).copy()
    if packed.layout is Layout.F16:
        return packed.codes.view(np.float16).reshape(n, k).astype(np.float32)
    if packed.layout is Layout.BF16:
        return (packed.codes.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(n, k)
    signed = unpack_codes(packed).astype(np.float32) - np.float32(packed.zero)
    scale, minimum = _levels(packed)
    weights = np.repeat(scale, packed.group, axis=1)[:n] * signed[:n]
    if minimum is not None:
        weights -= np.repeat(minimum, packed.group, axis=1)[:n]
    return weights


def pack_codes(codes: npt.NDArray[np.uint8], bits: int) -> Bytes:
    """Codes in tiles and planes. codes: [N, K], N a multiple of 32 and K of 32 # u8 → flat u8."""
    lanes, k = codes.shape
    blocks = codes.reshape(lanes // LANES, 2, 16, k // 32, 8, 4).transpose(0, 3, 4, 1, 2, 5)
    vectors = blocks.reshape(lanes // LANES, k // 32, 16, 64)
    planes = []
    shift = 0
    for width in _planes(bits):
        per = 8 // width
        part = ((vectors >> shift) & ((1 << width) - 1)).reshape(*vectors.shape[:2], 16 // per, per, 64)
        shifts = (np.arange(per, dtype=np.uint8) * width)[:, None]
        planes.append(np.bitwise_or.reduce(part << shifts, axis=3).reshape(*vectors.shape[:2], -1))
        shift += width
    return np.ascontiguousarray(np.concatenate(planes, axis=2)).reshape(-1)


def unpack_codes(packed: PackedMatrix) -> npt.NDArray[np.uint8]:
    """The codes of a group-code matrix, padding rows included, [padded N, K] u8."""
    tiles, blocks = _padded(packed.n) // LANES, packed.k // 32
    stored = packed.codes.reshape(tiles, blocks, packed.bits * 128)
    vectors = np.zeros((tiles, blocks, 16, 64), np.uint8)
    start = shift = 0
    for width in _planes(packed.bits):
        per = 8 // width
        part = stored[:, :, start : start + 128 * width].reshape(tiles, blocks, 16 // per, 1, 64)
        shifts = (np.arange(per, dtype=np.uint8) * width)[:, None]
        values = (part >> shifts) & ((1 << width) - 1)
        vectors |= (values.reshape(vectors.shape) << shift).astype(np.uint8)
        start += 128 * width
        shift += width
    lanes = vectors.reshape(tiles, blocks, 8, 2, 16, 4).transpose(0, 3, 4, 1, 2, 5)
    return lanes.reshape(tiles * LANES, packed.k)


def _planes(bits: int) -> list[int]:
    if bits == 8:
        return [8]
    return [width for width in (4, 2, 1) if bits & width]


def _padded(n: int) -> int:
    return -(-n // LANES) * LANES


def _check(raw: RawTensor, rows: Rows | None) -> tuple[int, int]:
    """(rows taken, columns), after comparing shape, kind and size."""
    if len(raw.shape) != 2 or min(raw.shape) < 1:
        raise ModelFileError(f"tensor {raw.name} has shape {raw.shape}; a matrix of two dimensions is needed.")
    n, k = raw.shape
    multiple = max(32, BLOCKS[raw.storage].block) if raw.storage in CODE_FORMATS else 1
    if k % multiple:
        raise ModelFileError(
            f"tensor {raw.name} has {k} columns; {raw.storage.value} needs a multiple of {multiple}.",
        )
    if raw.data.size != num_bytes(raw.storage, raw.shape):
        raise ModelFileError(
            f"tensor {raw.name} has {raw.data.size} bytes; {raw.storage.value} of shape {raw.shape} needs "
            f"{num_bytes(raw.storage, raw.shape)}.",
            hint="the file is truncated or corrupt",
        )
    if rows is None:
        return n, k
    if rows.ndim != 1 or rows.size < 1 or int(rows.min()) < 0 or int(rows.max()) >= n:
        raise ModelFileError(f"tensor {raw.name} has {n} rows; the rows asked of it are not all among them.")
    return int(rows.size), k


def _take(stored: Bytes, rows: Rows | None) -> Bytes:
    """Rows in that order; a run of neighbours is a view."""
    if rows is None:
        return stored
    first = int(rows[0])
    if np.array_equal(rows, np.arange(first, first + rows.size)):
        return stored[first : first + rows.size]
    return stored[rows]


class _Parts(NamedTuple):
    """A matrix by rows, before tiling: codes [N, K] u8; the rest [N, groups or supers]."""

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float16]
    subscales: npt.NDArray[np.int8] | None = None
    super_mins: npt.NDArray[np.float16] | None = None
    mins: npt.NDArray[np.uint8] | None = None


# The block formats below are GGUF's: block_q8_0, block_q4_0, block_q4_K, block_q6_K. blocks: [N, K / block, bytes] u8.
def _read_q8_0(blocks: Bytes) -> _Parts:
    codes = blocks[:, :, 2:] ^ np.uint8(128)
    return _Parts(codes.reshape(len(blocks), -1), _f16(blocks[:, :, :2]))


def _read_q4_0(blocks: Bytes) -> _Parts:
    nibbles = blocks[:, :, 2:]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=2)
    return _Parts(codes.reshape(len(blocks), -1), _f16(blocks[:, :, :2]))


def _read_q4_k(blocks: Bytes) -> _Parts:
    n = len(blocks)
    low, mid, high = blocks[:, :, 4:8], blocks[:, :, 8:12], blocks[:, :, 12:16]
    scales = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=2)
    mins = np.concatenate([mid & 63, (high >> 4) | ((mid >> 6) << 4)], axis=2)
    nibbles = blocks[:, :, 16:].reshape(n, -1, 4, 1, 32)
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=3)
    return _Parts(
        codes.reshape(n, -1),
        _f16(blocks[:, :, 0:2]),
        scales.reshape(n, -1).view(np.int8),
        _f16(blocks[:, :, 2:4]),
        mins.reshape(n, -1),
    )


def _read_q6_k(blocks: Bytes) -> _Parts:
    n = len(blocks)
    low = blocks[:, :, :128].reshape(n, -1, 2, 2, 32)
    top = blocks[:, :, 128:192].reshape(n, -1, 2, 1, 32)
    nibbles = np.concatenate([low & 15, low >> 4], axis=3)  # [N, B, 2, 4, 32]
    crumbs = (top >> (np.arange(4, dtype=np.uint8) * 2)[:, None]) & 3
    codes = nibbles | (crumbs << 4)
    subscales = np.ascontiguousarray(blocks[:, :, 192:208]).reshape(n, -1).view(np.int8)
    return _Parts(codes.reshape(n, -1), _f16(blocks[:, :, 208:210]), subscales)


_READERS: dict[Storage, Callable[[Bytes], _Parts]] = {
    Storage.Q8_0: _read_q8_0,
    Storage.Q4_0: _read_q4_0,
    Storage.Q4_K: _read_q4_k,
    Storage.Q6_K: _read_q6_k,
}


def _f16(pairs: Bytes) -> npt.NDArray[np.float16]:
    return np.ascontiguousarray(pairs).view(np.float16).reshape(len(pairs), -1)


def _fill(packed: PackedMatrix, *values: npt.NDArray[np.generic] | None) -> None:
    parts = _Parts(*values)  # type: ignore[arg-type]
    packed.codes[:] = pack_codes(_pad(parts.codes), packed.bits)
    scales = _tile(parts.scales)
    if parts.super_mins is not None:
        scales = np.stack([scales, _tile(parts.super_mins)], axis=2)
    for target, tiled in (
        (packed.scales, scales),
        (packed.subscales, None if parts.subscales is None else _tile(parts.subscales)),
        (packed.mins, None if parts.mins is None else _tile(parts.mins)),
    ):
        if target is not None and tiled is not None:
            target[:] = np.ascontiguousarray(tiled).view(np.uint8).reshape(-1)


def _pad(rows: npt.NDArray[_Item]) -> npt.NDArray[_Item]:
    return np.concatenate([rows, np.zeros((_padded(len(rows)) - len(rows), rows.shape[1]), rows.dtype)])


def _tile(rows: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """[N, G] → [tiles, G, 32]."""
    padded = _pad(rows)
    return padded.reshape(-1, LANES, rows.shape[1]).transpose(0, 2, 1)


def _untile(stored: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """[tiles, G, 32] → [padded N, G] f32."""
    return stored.transpose(0, 2, 1).reshape(-1, stored.shape[1]).astype(np.float32)


def _levels(packed: PackedMatrix) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Scales and minima, [padded N, K / group] f32."""
    tiles = _padded(packed.n) // LANES
    assert packed.scales is not None
    top = packed.scales.view(np.float16)
    if not packed.super:
        scale = _untile(top.reshape(tiles, -1, LANES))
        mins = None if packed.mins is None else _untile(packed.mins.view(np.float16).reshape(tiles, -1, LANES))
        return scale, mins
    assert packed.subscales is not None
    repeat = packed.super // packed.group
    levels = top.reshape(tiles, packed.k // packed.super, -1, LANES)
    sub = _untile(packed.subscales.view(np.int8).reshape(tiles, -1, LANES))
    scale = np.repeat(_untile(levels[:, :, 0]), repeat, axis=1) * sub
    if packed.mins is None:
        return scale, None
    sub_mins = _untile(packed.mins.reshape(tiles, -1, LANES))
    return scale, np.repeat(_untile(levels[:, :, 1]), repeat, axis=1) * sub_mins
