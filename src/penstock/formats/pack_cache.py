"""A bounded cache of packed matrices on disk, one file a model, mapped on later starts.

Knows nothing about models or how matrices are packed. Invariant: a file is complete or absent (written aside, synced,
renamed), and nothing in it is believed before it is checked: kind, version, key, owner, and every size and offset.

File: the arrays, each at a multiple of 64 bytes; then a JSON index; then a tail of 64 bytes: magic, layout version,
index length, SHA-256 of the index.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from penstock.core.limits import MAX_TENSORS
from penstock.formats.packed import LAYOUT_VERSION, Layout, PackedMatrix, ScaleForm, consistent
from penstock.formats.tiles import Bytes

_MAGIC = b"PENSTOCKPACKED\x00\x01"
_TAIL = struct.Struct("<16sQQ32s")
_ALIGN = 64
_MAX_INDEX_BYTES = 64 * 1024 * 1024
_ARRAYS = ("codes", "scales", "subscales", "mins", "codebook")
_NUMBERS = ("layout", "n", "k", "bits", "group", "super", "zero", "scale_form")
_MAX_DIM = 2**31 - 1
_SUFFIX = ".packed"
_ASIDE = ".part"
_NICE = 10  # of the thread that writes behind

DEFAULT_MAX_BYTES = 20 * 1024**3


class CacheProblem(NamedTuple):
    """Why a cache file or folder was not used; said once, never fatal."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"pack cache {self.path}: {self.reason}"


class PackCache:
    """Packed matrices by key under one folder, least recently used files removed past `max_bytes`."""

    def __init__(self, folder: Path, max_bytes: int, report: Callable[[CacheProblem], None]) -> None:
        """A cache in `folder`, made when first written; `report` is called with what went wrong."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._report = report
        self._landing: threading.Thread | None = None

    def load(self, key: str) -> dict[str, PackedMatrix] | None:
        """The matrices stored under `key` as views of a map, or None where there are none to be trusted."""
        self.wait()
        path = self._path(key)
        try:
            if not path.exists():
                return None
            found = _read(path, key)
            os.utime(path)
        except (OSError, ValueError) as error:
            self._report(CacheProblem(str(path), f"ignored: {error}"))
            return None
        return found

    def store(
        self, key: str, items: Iterable[tuple[str, PackedMatrix]], num_bytes: int = 0
    ) -> dict[str, PackedMatrix] | None:
        """Writes the matrices in turn and returns them as views of the file; None when it cannot be written.

        The file gets its name in a thread, once the disk has it, so that nobody waits for the disk; `wait` waits.
        `items` may make each matrix only when asked for it; when None is returned it may be partly consumed, but not
        where `num_bytes`, what they have together, was given and is too much.
        """
        self.wait()
        written = self._write_aside(key, items, num_bytes, _read)
        if written is None:
            return None
        aside, held, found = written
        self._start(self._land, aside, self._path(key), held)
        return found

    def keep(self, key: str, matrices: Mapping[str, PackedMatrix], num_bytes: int = 0) -> None:
        """Writes matrices, which nobody changes any more, in a thread that steps back behind others; `wait` waits."""
        self.wait()
        self._start(self._write_behind, key, matrices, num_bytes)

    def wait(self) -> None:
        """Returns once what was stored last is on disk under its name, or was given up."""
        if self._landing is not None:
            self._landing.join()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        self._landing = threading.Thread(target=work, args=arguments, name="penstock-pack-cache")
        self._landing.start()

    def _write_behind(self, key: str, matrices: Mapping[str, PackedMatrix], num_bytes: int) -> None:
        if sys.platform == "linux":  # priorities of single threads
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        written = self._write_aside(key, matrices.items(), num_bytes, lambda path, key: {})
        if written is not None:
            self._land(written[0], self._path(key), written[1])

    def _write_aside(
        self,
        key: str,
        items: Iterable[tuple[str, PackedMatrix]],
        num_bytes: int,
        read: Callable[[Path, str], dict[str, PackedMatrix]],
    ) -> tuple[Path, int, dict[str, PackedMatrix]] | None:
        """The file without its name, a descriptor that holds it, what `read` made of it; None, reported, on failure."""
        path = self._path(key)
        try:
            _check_size(num_bytes, self._max_bytes)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            handle, name = tempfile.mkstemp(prefix=path.stem[:16], suffix=_ASIDE, dir=self._folder)
            held = _hold(handle)
            try:
                with os.fdopen(handle, "wb") as file:
                    _write(file, key, items, self._max_bytes)
                found = read(Path(name), key)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                os.close(held)
                raise
        except (OSError, ValueError) as error:
            self._report(CacheProblem(str(path), f"not written: {error}"))
            return None
        return Path(name), held, found

    def _land(self, aside: Path, path: Path, held: int) -> None:
        """Syncs what was written aside, gives it its name, makes room; `held` is closed."""
        try:
            _sync(aside)
            os.replace(aside, path)
            _sync(self._folder)
            self._evict(keep=path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink()
            self._report(CacheProblem(str(path), f"not written: {error}"))
        finally:
            os.close(held)

    def _path(self, key: str) -> Path:
        return self._folder / (hashlib.sha256(f"{LAYOUT_VERSION}:{key}".encode()).hexdigest() + _SUFFIX)

    def _sweep(self) -> None:
        """Removes what killed processes left aside."""
        for path in self._folder.glob("*" + _ASIDE):
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not to be had while its writer lives
                path.unlink()

    def _evict(self, keep: Path) -> None:
        """Removes the files used longest ago until the rest fits; files mapped elsewhere live on until unmapped."""
        files = []
        for path in self._folder.glob("*" + _SUFFIX):
            with contextlib.suppress(OSError):
                stat = path.stat()
                files.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._max_bytes:
                return
            if path == keep:
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size


def default_folder(environment: Mapping[str, str], home: Path) -> Path:
    """The cache's folder: $XDG_CACHE_HOME/penstock/packed, or ~/.cache/penstock/packed."""
    base = environment.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else home / ".cache"
    return root / "penstock" / "packed"


def default_max_bytes(folder: Path) -> int:
    """20 GiB, or a tenth of what is free on the folder's disk if that is less."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return min(DEFAULT_MAX_BYTES, shutil.disk_usage(folder).free // 10)


def _write(file: BinaryIO, key: str, items: Iterable[tuple[str, PackedMatrix]], max_bytes: int) -> None:
    index: dict[str, dict[str, object]] = {}
    for name, matrix in items:
        if name in index or len(index) >= MAX_TENSORS:
            raise ValueError(f"matrix {name} is stored twice or is one of more than {MAX_TENSORS}")
        entry: dict[str, object] = {number: int(getattr(matrix, number)) for number in _NUMBERS}
        for array in _ARRAYS:
            values: Bytes | None = getattr(matrix, array)
            if values is not None:
                entry[array] = [_pad(file), values.size]
                file.write(values.data)
        index[name] = entry
        _check_size(file.tell(), max_bytes)
    text = json.dumps({"key": key, "items": index}, separators=(",", ":")).encode()
    if len(text) > _MAX_INDEX_BYTES:
        raise ValueError(f"the index has {len(text)} bytes; the limit is {_MAX_INDEX_BYTES}")
    _pad(file)
    file.write(text)
    file.write(_TAIL.pack(_MAGIC, LAYOUT_VERSION, len(text), hashlib.sha256(text).digest()))


def _check_size(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise ValueError(f"the packed model is larger than the cache's limit of {max_bytes} bytes")


def _pad(file: BinaryIO) -> int:
    """The offset after writing zeros up to the next aligned one."""
    position = file.tell()
    file.write(bytes(-position % _ALIGN))
    return position + (-position % _ALIGN)


def _hold(handle: int) -> int:
    """Another descriptor of the file, locked until it is closed: a sign to others that its writer lives."""
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return os.dup(handle)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path, key: str) -> dict[str, PackedMatrix]:
    """The checked contents.

    Raises:
        ValueError: whatever is wrong with the file.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        if hasattr(os, "geteuid") and (stat.st_uid != os.geteuid() or stat.st_mode & 0o022):
            raise ValueError("it belongs to another user or can be written by others")
        text, end = _read_index(file, stat.st_size)
        data: Bytes = np.memmap(file, dtype=np.uint8, mode="r")
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("its index is nested too deeply") from error
    if not isinstance(content, dict) or content.get("key") != key or not isinstance(content.get("items"), dict):
        raise ValueError("its index is of another model or not an index")
    if len(content["items"]) > MAX_TENSORS:
        raise ValueError(f"it has more than {MAX_TENSORS} matrices")
    return {name: _matrix(name, entry, data, end) for name, entry in content["items"].items()}


def _read_index(file: BinaryIO, size: int) -> tuple[bytes, int]:
    """The index's text after its digest is checked, and where the arrays end."""
    if size < _TAIL.size:
        raise ValueError(f"it has {size} bytes, less than its tail")
    file.seek(size - _TAIL.size)
    magic, version, length, digest = _TAIL.unpack(file.read(_TAIL.size))
    if magic != _MAGIC or version != LAYOUT_VERSION:
        raise ValueError("it is not a packed model of this version")
    if length > min(_MAX_INDEX_BYTES, size - _TAIL.size):
        raise ValueError(f"its index of {length} bytes does not fit the file")
    end = size - _TAIL.size - length
    file.seek(end)
    text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise ValueError("the digest of its index is wrong")
    return text, end


def _matrix(name: str, entry: object, data: Bytes, end: int) -> PackedMatrix:
    if not isinstance(entry, dict):
        raise ValueError(f"matrix {name} is not described")
    numbers = {number: _number(entry.get(number)) for number in _NUMBERS}
    arrays = {array: _array(name, entry[array], data, end) for array in _ARRAYS if array in entry}
    if "codes" not in arrays:
        raise ValueError(f"matrix {name} has no codes")
    layout, scale_form = Layout(numbers.pop("layout")), ScaleForm(numbers.pop("scale_form"))
    matrix = PackedMatrix(layout=layout, scale_form=scale_form, **numbers, **arrays)  # type: ignore[arg-type]
    if not consistent(matrix):
        raise ValueError(f"the arrays of {name} do not fit its shape")
    return matrix


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_DIM:
        raise ValueError("a number of its index is out of range")
    return value


def _array(name: str, place: object, data: Bytes, end: int) -> Bytes:
    if not (isinstance(place, list) and len(place) == 2 and all(type(v) is int for v in place)):
        raise ValueError(f"an array of {name} is not described")
    offset, size = place
    if offset < 0 or size < 0 or offset % _ALIGN or offset + size > end:
        raise ValueError(f"an array of {name} lies outside the file")
    return data[offset : offset + size]
