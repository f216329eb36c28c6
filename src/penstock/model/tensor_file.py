"""A file of tensors, mapped and indexed, whatever its format.

Knows nothing about formats or models. Invariant: every tensor is a view of the map that was checked against the file's
size.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock.core import ModelFileError
from penstock.formats import RawTensor

_SAMPLE_BYTES = 64


@dataclass(frozen=True, slots=True)
class ByteTensor:
    """A stored tensor of unsigned bytes, which some formats hold codes or exponents in.

    Attributes:
        name: as in the file, for messages.
        shape: logical; one byte a value.
        data: flat view, read-only.  # [prod(shape)] u8
    """

    name: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TensorFile:
    """One opened file.

    Attributes:
        path: of the file.
        header: digest of everything before the tensors' bytes.
        tensors: by name.
        foreign: name → storage kind of tensors that are well-formed and of a kind that is not served.
        octets: by name, tensors of plain bytes; they are in `foreign` too.
    """

    path: Path
    header: bytes
    tensors: Mapping[str, RawTensor]
    foreign: Mapping[str, str] = field(default_factory=dict)
    octets: Mapping[str, ByteTensor] = field(default_factory=dict)


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """The file's bytes as a read-only view of a memory map.  # [file bytes] u8.

    Raises:
        ModelFileError: it is missing, empty, not a regular file or unreadable.
    """
    try:
        if not path.is_file():
            raise ModelFileError(f"{path}: no such file.")
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise ModelFileError(f"{path}: the file is empty.") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}.") from None
    return np.frombuffer(mapped, dtype=np.uint8)


def identity_of(files: Iterable[TensorFile], config: bytes) -> str:
    """Hex SHA-256 that names these weights: headers, config, and a sample of every tensor's bytes.

    Two fine-tunes of one model have equal headers, so headers alone would let one take the other's cached pages; the
    samples (head and middle of each tensor) tell them apart without reading the weights.
    """
    digest = hashlib.sha256(len(config).to_bytes(8, "little") + config)
    for file in sorted(files, key=lambda file: file.path.name):
        digest.update(file.header)
        stored: dict[str, RawTensor | ByteTensor] = {**file.tensors, **file.octets}
        for name in sorted(stored):
            data = stored[name].data
            middle = len(data) // 2
            digest.update(data[:_SAMPLE_BYTES].tobytes() + data[middle : middle + _SAMPLE_BYTES].tobytes())
    return digest.hexdigest()


def merge(files: Iterable[TensorFile]) -> tuple[dict[str, RawTensor], dict[str, str]]:
    """All files' tensors and foreign tensors by name.

    Raises:
        ModelFileError: a name occurs in two files.
    """
    tensors: dict[str, RawTensor] = {}
    foreign: dict[str, str] = {}
    for file in files:
        for name in (*file.tensors, *file.foreign):
            if name in tensors or name in foreign:
                raise ModelFileError(f"{file.path}: tensor {name[:120]!r} is in another shard too.")
        tensors.update(file.tensors)
        foreign.update(file.foreign)
    return tensors, foreign
