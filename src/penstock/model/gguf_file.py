"""GGUF files as metadata and views of their memory map.

Knows nothing about models. Invariant: every count, length, offset and alignment is checked against the file with
unbounded integers before anything of that size is made. Source: the GGUF format description, versions 2 and 3.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock.core import ModelFileError, limits
from penstock.formats import BLOCKS, RawTensor, Storage, num_bytes
from penstock.model.fields import shown
from penstock.model.tensor_file import TensorFile, map_file

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_TENSOR_DIMS = 4
_MAX_ALIGNMENT = 1 << 20
_MAX_KEY_BYTES = 65_535
_DEFAULT_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_ONE_BYTE = (0, 1, 7)
_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_KINDS = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
_SERVED = {number: Storage[name] for number, name in _KINDS.items() if name in Storage.__members__}
# Memory that Python's objects take, in bytes: charged before they are made, text of short strings by the chunk.
_BYTE_COST, _NUMBER_COST, _STRING_COST, _KEY_COST, _TENSOR_COST = 8, 40, 84, 256, 1024
_WIDE_CHAR = 5  # a byte of text, if one character in it needs four, while it is made
_CHUNK, _SHORT_BYTES, _MAX_ENTRY_BYTES = 1024, 256, 65_535


@dataclass(frozen=True, slots=True)
class GgufFile:
    """One opened GGUF file: its metadata (scalars, strings, lists) and its tensors."""

    metadata: Mapping[str, object]
    tensors: TensorFile


@dataclass(frozen=True, slots=True)
class _Info:
    """A tensor's entry in the directory."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class _Cursor:
    """Reads forward through the map; every read is checked against what is left."""

    def __init__(self, path: Path, data: npt.NDArray[np.uint8]) -> None:
        self.path = path
        self.at = 0
        self._data = data.data
        self._budget = limits.MAX_OVERHEAD_BYTES + len(data)

    @property
    def left(self) -> int:
        return len(self._data) - self.at

    def error(self, message: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {message}")

    def charge(self, count: int, cost: int, what: str) -> None:
        """Passes while the objects that the file asks for take no more than their bound above its size."""
        self._budget -= count * cost
        if self._budget < 0:
            raise self.error(
                f"{what} would take {shown(count * cost)} bytes of memory; all may take "
                f"{limits.MAX_OVERHEAD_BYTES} above the file's size."
            )

    def take(self, count: int, what: str) -> memoryview:
        if count > self.left:
            raise self.error(
                f"truncated or corrupt: {what} needs {shown(count)} bytes at {self.at}; {self.left} are left."
            )
        self.at += count
        return self._data[self.at - count : self.at]

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def string(self, what: str, limit: int) -> str:
        length = self.u64(what)
        if length > limit:
            raise self.error(f"{what} of {length} bytes; at most {limit}.")
        if length > _SHORT_BYTES:
            self.charge(min(length, self.left), _WIDE_CHAR, what)
        try:
            return str(self.take(length, what), "utf-8")
        except UnicodeDecodeError:
            raise self.error(f"{what} is not UTF-8.") from None

    def strings(self, what: str, count: int) -> list[str]:
        """`count` strings, charged as they are made: vocabularies have hundreds of thousands."""
        found: list[str] = []
        while len(found) < count:
            before = self.at
            found += self._chunk(what, min(count - len(found), _CHUNK))
            self.charge(self.at - before, _WIDE_CHAR, what)
        return found

    def _chunk(self, what: str, count: int) -> list[str]:
        """`count` strings, as `string` reads them, without a call for each short one."""
        data, size, at = self._data, len(self._data), self.at
        found: list[str] = []
        for _ in range(count):
            start = at + 8
            end = start + int.from_bytes(data[at:start], "little")
            try:
                if end > size or end - start > _SHORT_BYTES:
                    raise ValueError
                found.append(str(data[start:end], "utf-8"))
            except ValueError:  # UnicodeDecodeError is one; `string` says what is wrong
                self.at = at
                found.append(self.string(what, _MAX_ENTRY_BYTES))
                end = self.at
            at = end
        self.at = at
        return found


def read_gguf(path: Path) -> GgufFile:
    """One GGUF file.

    Raises:
        ModelFileError: the file is no GGUF file, truncated, corrupt or beyond a bound.
    """
    data = map_file(path)
    cursor = _Cursor(path, data)
    num_tensors, num_keys = _counts(cursor)
    metadata = _metadata(cursor, num_keys)
    infos = _infos(cursor, num_tensors)
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.error(f"general.alignment is {shown(alignment)}; a power of two up to {_MAX_ALIGNMENT} is needed.")
    start = -(-cursor.at // alignment) * alignment
    header = hashlib.sha256(data[: cursor.at].data).digest()
    tensors, foreign = _views(cursor, infos, data[start:] if start < len(data) else data[:0], alignment)
    return GgufFile(metadata, TensorFile(path, header, tensors, foreign))


def _counts(cursor: _Cursor) -> tuple[int, int]:
    if bytes(cursor.take(4, "the magic number")) != _MAGIC:
        raise cursor.error("not a GGUF file.")
    version = cursor.u32("the version")
    if version not in _VERSIONS:
        raise cursor.error(f"GGUF version {version}; versions 2 and 3 (little-endian) are read.")
    num_tensors, num_keys = cursor.u64("the tensor count"), cursor.u64("the key count")
    for what, count, limit, least, cost in (
        ("tensors", num_tensors, limits.MAX_TENSORS, 32, _TENSOR_COST),
        ("keys", num_keys, limits.MAX_GGUF_KEYS, 13, _KEY_COST),
    ):
        if count > limit or count * least > cursor.left:
            raise cursor.error(f"{count} {what}; at most {min(limit, cursor.left // least)} can be in this file.")
        cursor.charge(count, cost, f"{count} {what}")
    return num_tensors, num_keys


def _metadata(cursor: _Cursor, num_keys: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for _ in range(num_keys):
        key = cursor.string("a key", _MAX_KEY_BYTES)
        if key in found:
            raise cursor.error(f"key {shown(key)} occurs twice.")
        found[key] = _value(cursor, key, cursor.u32("a type"))
    return found


def _value(cursor: _Cursor, key: str, kind: int) -> object:
    if kind == _STRING:
        return cursor.string(shown(key), limits.MAX_GGUF_STRING_BYTES)
    if kind == _ARRAY:
        return _array(cursor, shown(key))
    return _numbers(cursor, shown(key), kind, 1)[0]


def _array(cursor: _Cursor, key: str) -> object:
    kind, count = cursor.u32(key), cursor.u64(key)
    what = f"{key}, {count} entries,"
    if kind != _STRING:
        cursor.charge(count, _BYTE_COST if kind in _ONE_BYTE else _NUMBER_COST, what)
        return _numbers(cursor, key, kind, count)
    if count * 8 > cursor.left:
        raise cursor.error(f"truncated or corrupt: {key} has {count} strings; {cursor.left} bytes are left.")
    cursor.charge(count, _STRING_COST, what)
    return cursor.strings(key, count)


def _numbers(cursor: _Cursor, key: str, kind: int, count: int) -> list[object]:
    if kind not in _SCALARS:
        raise cursor.error(f"{key} has the unknown or nested value type {kind}.")
    dtype = np.dtype(_SCALARS[kind])
    raw = np.frombuffer(cursor.take(count * dtype.itemsize, key), dtype=np.uint8)
    if dtype.kind == "b":
        return list((raw != 0).tolist())
    return list(np.frombuffer(raw, dtype=dtype).tolist())


def _infos(cursor: _Cursor, num_tensors: int) -> list[_Info]:
    infos: dict[str, _Info] = {}
    for _ in range(num_tensors):
        name = cursor.string("a tensor's name", _MAX_KEY_BYTES)
        num_dims = cursor.u32("a tensor's rank")
        if not 1 <= num_dims <= _MAX_TENSOR_DIMS:
            raise cursor.error(f"tensor {shown(name)} has {num_dims} dimensions; 1 to {_MAX_TENSOR_DIMS} are needed.")
        dims = struct.unpack(f"<{num_dims}Q", cursor.take(8 * num_dims, "a tensor's shape"))
        kind, offset = cursor.u32("a tensor's type"), cursor.u64("a tensor's offset")
        if name in infos:
            raise cursor.error(f"tensor {shown(name)} occurs twice.")
        # The file lists the innermost dimension first.
        infos[name] = _Info(name, tuple(reversed(dims)), kind, offset)
    return list(infos.values())


def _views(
    cursor: _Cursor, infos: list[_Info], body: npt.NDArray[np.uint8], alignment: int
) -> tuple[dict[str, RawTensor], dict[str, str]]:
    tensors: dict[str, RawTensor] = {}
    foreign: dict[str, str] = {}
    at = 0
    for info in sorted(infos, key=lambda info: info.offset):
        where = f"tensor {shown(info.name)}"
        if info.kind in _KINDS and info.kind not in _SERVED:
            foreign[info.name] = _KINDS[info.kind]
            continue
        size = _size(cursor, info)
        if info.offset % alignment:
            raise cursor.error(f"{where} begins at {info.offset}, no multiple of the alignment of {alignment}.")
        if info.offset < at:
            raise cursor.error(f"{where} overlaps another at byte {info.offset} of the data.")
        at = info.offset + size
        if at > len(body):
            raise cursor.error(f"truncated: {where} ends at byte {at} of the data; {len(body)} are there.")
        tensors[info.name] = RawTensor(info.name, _SERVED[info.kind], info.shape, body[info.offset : at])
    return tensors, foreign


def _size(cursor: _Cursor, info: _Info) -> int:
    if info.kind not in _SERVED:
        raise cursor.error(f"tensor {shown(info.name)} has the unknown type {info.kind}.")
    storage = _SERVED[info.kind]
    if prod(info.shape) < 1 or info.shape[-1] % BLOCKS[storage].block:
        raise cursor.error(f"tensor {shown(info.name)}: shape {shown(info.shape)} is impossible for {storage.value}.")
    return num_bytes(storage, info.shape)
