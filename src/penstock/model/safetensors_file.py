"""Safetensors files, single or sharded, as views of their memory maps.

Knows nothing about models. Invariant: the header is checked whole (lengths, types, shapes, offsets without gaps or
overlaps, to the file's last byte) before a tensor is handed out; nothing is copied.
Source: the safetensors format description.
"""

from __future__ import annotations

import hashlib
import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.core import ModelFileError, limits
from penstock.formats import RawTensor, Storage
from penstock.model.fields import shown
from penstock.model.json_file import parse_json, read_json
from penstock.model.tensor_file import ByteTensor, TensorFile, map_file, merge

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LENGTH_BYTES = 8
_SERVED = {"F32": Storage.F32, "F16": Storage.F16, "BF16": Storage.BF16}
_ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,250}\.safetensors", re.ASCII)


def read_safetensors(path: Path) -> TensorFile:
    """One safetensors file.

    Raises:
        ModelFileError: the file is truncated, corrupt or beyond a bound.
    """
    data = map_file(path)
    header, body = _split(path, data)
    raw = header.tobytes()
    entries = parse_json(raw, f"{path}: header")
    entries.pop("__metadata__", None)
    if len(entries) > limits.MAX_TENSORS:
        raise ModelFileError(f"{path}: {len(entries)} tensors; at most {limits.MAX_TENSORS}.")
    tensors: dict[str, RawTensor] = {}
    foreign: dict[str, str] = {}
    octets: dict[str, ByteTensor] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in entries.items():
        dtype, shape, begin, end = _entry(path, name, entry)
        spans.append((begin, end))
        if dtype in _SERVED:
            tensors[name] = RawTensor(name, _SERVED[dtype], shape, body[begin:end])
        else:
            foreign[name] = dtype
        if dtype == "U8":
            octets[name] = ByteTensor(name, shape, body[begin:end])
    _check_spans(path, sorted(spans), len(body))
    return TensorFile(path, hashlib.sha256(raw).digest(), tensors, foreign, octets)


def _split(path: Path, data: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    size = len(data)
    if size < _LENGTH_BYTES:
        raise ModelFileError(f"{path}: {size} bytes; too short for a safetensors file.")
    length = int.from_bytes(data[:_LENGTH_BYTES].tobytes(), "little")
    if length > limits.MAX_SAFETENSORS_HEADER_BYTES:
        raise ModelFileError(
            f"{path}: not a safetensors file: header of {length} bytes, limit {limits.MAX_SAFETENSORS_HEADER_BYTES}."
        )
    if length > size - _LENGTH_BYTES:
        raise ModelFileError(f"{path}: truncated: a header of {length} bytes in a file of {size}.")
    start = _LENGTH_BYTES + length
    return data[_LENGTH_BYTES:start], data[start:]


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    where = f"{path}: tensor {shown(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(f"{where}: an object with dtype, shape and data_offsets is needed.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BITS:
        raise ModelFileError(f"{where}: unknown dtype {shown(dtype)}.")
    if not _counts(shape) or len(shape) > limits.MAX_DIMS:
        raise ModelFileError(f"{where}: shape {shown(shape)}; at most {limits.MAX_DIMS} counts are needed.")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelFileError(f"{where}: data_offsets {shown(offsets)} are no span.")
    begin, end = offsets
    needed = prod(shape) * _ITEM_BITS[dtype] // 8
    if end - begin != needed:
        raise ModelFileError(
            f"{where}: {dtype} {shown(shape)} needs {shown(needed)} bytes; {shown(end - begin)} are given."
        )
    return dtype, tuple(shape), begin, end


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values
    )


def _check_spans(path: Path, spans: list[tuple[int, int]], size: int) -> None:
    at = 0
    for begin, end in spans:
        if begin != at:
            kind = "overlap" if begin < at else "leave a gap"
            raise ModelFileError(f"{path}: tensors {kind} at byte {begin} of the data.")
        at = end
    if at > size:
        raise ModelFileError(f"{path}: truncated: tensors need {at} bytes of data, the file has {size}.")
    if at < size:
        raise ModelFileError(f"{path}: {size - at} bytes after the last tensor.")


def safetensors_paths(folder: Path) -> tuple[Path, ...]:
    """The files that hold a folder's weights: the single file, the shards of the index, or the one file there is.

    Raises:
        ModelFileError: there are none, or the index names something that is no plain file name.
    """
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    if (folder / INDEX).is_file():
        return tuple(folder / name for name in sorted(set(_index(folder).values())))
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return (found[0],)
    if found:
        raise ModelFileError(f"{folder}: {len(found)} safetensors files and no {INDEX}.")
    pickled = next((path.name for path in sorted(folder.glob("*.bin"))), None)
    raise ModelFileError(
        f"{folder}: no {SINGLE} and no {INDEX}.",
        hint=f"{pickled} is not read: pickled weights can run code; convert to safetensors." if pickled else None,
    )


def read_folder(folder: Path) -> tuple[TensorFile, ...]:
    """A folder's weight files, opened; an index and its shards agree.

    Raises:
        ModelFileError: a file is missing, corrupt, or lacks a tensor that the index promises.
    """
    files = tuple(read_safetensors(path) for path in safetensors_paths(folder))
    merge(files)  # refuses a name that two shards hold
    if not (folder / SINGLE).is_file() and (folder / INDEX).is_file():
        by_path = {file.path.name: file for file in files}
        for name, shard in _index(folder).items():
            if name not in by_path[shard].tensors and name not in by_path[shard].foreign:
                raise ModelFileError(f"{folder / INDEX}: tensor {shown(name)} is not in {shard}.")
    return files


def _index(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    found = read_json(path, limits.MAX_SAFETENSORS_HEADER_BYTES).get("weight_map")
    if not isinstance(found, dict) or not found or len(found) > limits.MAX_TENSORS:
        raise ModelFileError(f"{path}: weight_map must name between 1 and {limits.MAX_TENSORS} tensors.")
    for shard in found.values():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise ModelFileError(f"{path}: {shown(shard)} is no plain .safetensors file name.")
    if len(set(found.values())) > limits.MAX_SHARDS:
        raise ModelFileError(f"{path}: {len(set(found.values()))} shards; at most {limits.MAX_SHARDS}.")
    return found
