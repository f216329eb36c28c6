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
- codebook: nothing, or sixteen bytes for codes of 4 bits: the byte codebook[c] then stands for the code c above.
- one level (super = 0): scales f16 [N / 32, K / group, 32]; mins, if any, the same. Or, as `ScaleForm.E8M0`, scales
  u8 [N / 32, K / group, 32], exponents: scale = 2^(e - 128).
- two levels: scales f16 [N / 32, K / super, 32], or [N / 32, K / super, 2, 32] with the super-minima second;
  scale = super-scale · subscale, minima alike. `ScaleForm` says how the integers lie:
  HALF: subscales i8 [N / 32, K / group, 32]; mins, if any, u8 [N / 32, K / group, 32];
  NIBBLES: subscales u8 [N / 32, K / group, 32], the sub-scale in the low half of a byte, the sub-minimum in the high;
  SIX_BITS: subscales u8 [N / 32, K / group / 4, 3, 32], 6-bit codes around 32 of four groups: byte j has group j's code
  below and bits 2·j and 2·j + 1 of the fourth group's above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from penstock.core import ModelFileError
from penstock.formats.gguf_blocks import FP4_VALUES, IQ4_VALUES, e8m0_halves
from penstock.formats.gguf_parts import Parts, read_parts
from penstock.formats.tensors import BLOCKS, RawTensor, Storage, num_bytes
from penstock.formats.tiles import (
    LANES,
    Bytes,
    pack_codes,
    pack_sixes,
    pad,
    padded,
    tile,
    unpack_codes,
    unpack_sixes,
    untile,
)

LAYOUT_VERSION = 2
Rows = npt.NDArray[np.int64]


class Layout(IntEnum):
    """Kinds of layout; the numbers are those of native/linear.h."""

    F32 = 0
    BF16 = 1
    CODES = 2
    F16 = 3


class ScaleForm(IntEnum):
    """How scales and sub-scales are stored; the numbers are those of native/linear.h."""

    HALF = 0
    E8M0 = 1
    NIBBLES = 2
    SIX_BITS = 3


class CodeFormat(NamedTuple):
    """How group codes are laid out.

    Attributes:
        bits: of a code.
        group: inputs under one scale.
        super: inputs under one super-scale, or 0 for one level.
        zero: code that stands for nought.
        mins: whether a minimum is subtracted.
        scale_form: how the scales are stored.
        codebook: bytes that the codes stand for, or none.
    """

    bits: int
    group: int
    super: int
    zero: int
    mins: bool
    scale_form: ScaleForm = ScaleForm.HALF
    codebook: bytes = b""


_IQ4_BOOK = bytes(value + 128 for value in IQ4_VALUES)
_FP4_BOOK = bytes(value + 12 for value in FP4_VALUES)  # below 128, which kernels multiply more cheaply

CODE_FORMATS: dict[Storage, CodeFormat] = {
    Storage.Q8_0: CodeFormat(8, 32, 0, 128, False),
    Storage.Q4_0: CodeFormat(4, 32, 0, 8, False),
    Storage.Q4_1: CodeFormat(4, 32, 0, 0, True),
    Storage.Q5_0: CodeFormat(5, 32, 0, 16, False),
    Storage.Q5_1: CodeFormat(5, 32, 0, 0, True),
    Storage.Q2_K: CodeFormat(2, 16, 256, 0, True, ScaleForm.NIBBLES),
    Storage.Q3_K: CodeFormat(3, 16, 256, 4, False, ScaleForm.SIX_BITS),
    Storage.Q4_K: CodeFormat(4, 32, 256, 0, True),
    Storage.Q5_K: CodeFormat(5, 32, 256, 0, True),
    Storage.Q6_K: CodeFormat(6, 16, 256, 32, False),
    Storage.IQ4_NL: CodeFormat(4, 32, 0, 128, False, codebook=_IQ4_BOOK),
    Storage.IQ4_XS: CodeFormat(4, 32, 256, 128, False, codebook=_IQ4_BOOK),
    Storage.MXFP4: CodeFormat(4, 32, 0, 12, False, ScaleForm.E8M0, _FP4_BOOK),
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
        scales, subscales, mins, codebook: see the module's text; None where the layout has none.
        bits, group, super, zero, scale_form: see `CodeFormat`; 0 for float layouts.
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
    scale_form: ScaleForm = ScaleForm.HALF
    codebook: Bytes | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.codes, self.scales, self.subscales, self.mins, self.codebook)
        return sum(array.size for array in arrays if array is not None)

    @property
    def code_format(self) -> CodeFormat:
        """What the matrix says of its group codes."""
        mins = self.mins is not None or self.scale_form is ScaleForm.NIBBLES
        book = b"" if self.codebook is None else self.codebook.tobytes()
        return CodeFormat(self.bits, self.group, self.super, self.zero, mins, self.scale_form, book)


# Fills the arrays of an empty matrix from stored bytes: (storage, data, packed, rows). Native code uses many threads.
Packer = Callable[[str, Bytes, PackedMatrix, Rows | None], None]
# That many bytes, zeros.
Take = Callable[[int], Bytes]


def zeros(size: int) -> Bytes:
    """Memory of its own for one array."""
    return np.zeros(size, np.uint8)


def pack(raw: RawTensor, rows: Rows | None = None, *, packer: Packer | None = None, take: Take = zeros) -> PackedMatrix:
    """The matrix in the layout its storage kind maps to; float kinds share memory where rows and alignment allow.

    Args:
        raw: stored tensor of two dimensions, outputs first.
        rows: stored rows taken, in this order; None is all of them.
        packer: fills group codes in place of numpy; same bytes.
        take: gives memory for group codes.

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
    packed = empty(CODE_FORMATS[raw.storage], n, k, take)
    if packer is not None:
        packer(raw.storage.value, raw.data, packed, rows)
    else:
        stored = _take(raw.data.reshape(raw.shape[0], -1), rows)
        _fill(packed, read_parts(raw.storage, stored))
    return packed


def empty(form: CodeFormat, n: int, k: int, take: Take = zeros) -> PackedMatrix:
    """A group-code matrix of zeros with arrays of the right sizes, to be filled by a packer."""
    size, *sizes = array_bytes(form, n, k)
    scales, subscales, mins = (take(each) if each else None for each in sizes)
    return PackedMatrix(
        Layout.CODES,
        n,
        k,
        take(size),
        scales,
        subscales,
        mins,
        form.bits,
        form.group,
        form.super,
        form.zero,
        form.scale_form,
        np.frombuffer(form.codebook, np.uint8) if form.codebook else None,
    )


def array_bytes(form: CodeFormat, n: int, k: int) -> tuple[int, int, int, int]:
    """Bytes of codes, scales, subscales and mins of a group-code matrix; 0 where it has none."""
    lanes = padded(n)
    codes, groups = lanes * k // 8 * form.bits, lanes * (k // form.group)
    if not form.super:
        scales = groups if form.scale_form is ScaleForm.E8M0 else groups * 2
        return codes, scales, 0, groups * 2 if form.mins else 0
    scales = lanes * (k // form.super) * (4 if form.mins else 2)
    if form.scale_form is ScaleForm.SIX_BITS:
        return codes, scales, groups // 4 * 3, 0
    return codes, scales, groups, groups if form.mins and form.scale_form is ScaleForm.HALF else 0


def consistent(packed: PackedMatrix) -> bool:
    """Whether numbers and array sizes fit together, so that the kernels may read the matrix."""
    have = tuple(0 if a is None else a.size for a in (packed.codes, packed.scales, packed.subscales, packed.mins))
    if packed.layout is not Layout.CODES:
        width = 4 if packed.layout is Layout.F32 else 2
        return packed.codebook is None and have == (packed.n * packed.k * width, 0, 0, 0)
    bits, group, top, zero = packed.bits, packed.group, packed.super, packed.zero
    groups_fit = group > 0 and packed.k % group == 0 and packed.k % 32 == 0
    if not (2 <= bits <= 8 and zero <= 255 and groups_fit and (group == packed.k or group in (16, 32, 64, 128, 256))):
        return False
    if top and (top % group or packed.k % top):
        return False
    if packed.codebook is not None and (bits != 4 or packed.codebook.size != 16):
        return False
    return _scales_fit(packed) and have == array_bytes(packed.code_format, packed.n, packed.k)


def _scales_fit(packed: PackedMatrix) -> bool:
    """Whether the form of scales goes with the levels and the number of groups."""
    form, two, single = packed.scale_form, packed.super > 0, packed.mins is None
    if form is ScaleForm.E8M0:
        return not two and single
    if form is ScaleForm.NIBBLES:
        return two and single
    if form is ScaleForm.SIX_BITS:
        return two and single and packed.k // packed.group % 4 == 0
    return True


def unpack(packed: PackedMatrix) -> npt.NDArray[np.float32]:
    """The weights, [N, K] f32."""
    n, k = packed.n, packed.k
    if packed.layout is Layout.F32:
        return packed.codes.view(np.float32).reshape(n, k).copy()
    if packed.layout is Layout.F16:
        return packed.codes.view(np.float16).reshape(n, k).astype(np.float32)
    if packed.layout is Layout.BF16:
        return (packed.codes.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(n, k)
    with np.errstate(invalid="ignore", over="ignore"):
        return _scaled(packed)


def _scaled(packed: PackedMatrix) -> npt.NDArray[np.float32]:
    """The weights of group codes, [N, K] f32."""
    n = packed.n
    codes = unpack_codes(packed.codes, packed.bits, padded(n), packed.k)
    if packed.codebook is not None:
        codes = packed.codebook[codes]
    signed = codes.astype(np.float32) - np.float32(packed.zero)
    scale, minimum = _levels(packed)
    weights = np.repeat(scale, packed.group, axis=1)[:n] * signed[:n]
    if minimum is not None:
        weights -= np.repeat(minimum, packed.group, axis=1)[:n]
    return weights


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


def _fill(packed: PackedMatrix, parts: Parts) -> None:
    packed.codes[:] = pack_codes(pad(parts.codes), packed.bits)
    scales = tile(parts.scales)
    if parts.super_mins is not None:
        scales = np.stack([scales, tile(parts.super_mins)], axis=2)
    subscales = None if parts.subscales is None else tile(parts.subscales)
    if subscales is not None and packed.scale_form is ScaleForm.SIX_BITS:
        subscales = pack_sixes(subscales)
    mins = None if parts.mins is None else tile(parts.mins)
    for target, tiled in ((packed.scales, scales), (packed.subscales, subscales), (packed.mins, mins)):
        if target is not None and tiled is not None:
            target[:] = np.ascontiguousarray(tiled).view(np.uint8).reshape(-1)


def _levels(packed: PackedMatrix) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Scales and minima, [padded N, K / group] f32."""
    tiles = padded(packed.n) // LANES
    assert packed.scales is not None
    if packed.scale_form is ScaleForm.E8M0:
        return e8m0_halves(packed.scales.reshape(tiles, -1, LANES).transpose(0, 2, 1).reshape(tiles * LANES, -1)), None
    top = packed.scales.view(np.float16)
    if not packed.super:
        scale = untile(top.reshape(tiles, -1, LANES))
        mins = None if packed.mins is None else untile(packed.mins.view(np.float16).reshape(tiles, -1, LANES))
        return scale, mins
    repeat = packed.super // packed.group
    levels = top.reshape(tiles, packed.k // packed.super, -1, LANES)
    sub, sub_mins = _sublevels(packed, tiles)
    scale = np.repeat(untile(levels[:, :, 0]), repeat, axis=1) * untile(sub)
    if sub_mins is None:
        return scale, None
    return scale, np.repeat(untile(levels[:, :, 1]), repeat, axis=1) * untile(sub_mins)


def _sublevels(packed: PackedMatrix, tiles: int) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic] | None]:
    """Integer sub-scales and sub-minima, [tiles, K / group, 32]."""
    assert packed.subscales is not None
    if packed.scale_form is ScaleForm.SIX_BITS:
        sixes = unpack_sixes(packed.subscales.reshape(tiles, -1, 3, LANES))
        return sixes.astype(np.int8) - np.int8(32), None
    stored = packed.subscales.reshape(tiles, -1, LANES)
    if packed.scale_form is ScaleForm.NIBBLES:
        return stored & 15, stored >> 4
    mins = None if packed.mins is None else packed.mins.reshape(tiles, -1, LANES)
    return stored.view(np.int8), mins
