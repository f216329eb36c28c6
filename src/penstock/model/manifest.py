"""What was pulled of a model on the hub: every file's size, time and digests.

Knows nothing about the network. Invariant: a manifest names only files whose digest was checked when they were pulled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from penstock.core import ModelFileError, limits
from penstock.model.json_file import read_json
from penstock.model.reference import is_plain

HEADER_BYTES = 256 * 1024
_CHUNK_BYTES = 4 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One pulled file.

    Attributes:
        size: in bytes.
        sha256: of the whole file, hex.
        header: SHA-256 of its first `HEADER_BYTES`, hex.
        time_ns: when its contents were last written.
    """

    size: int
    sha256: str
    header: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was pulled of one commit of a repository.

    Attributes:
        repo: `owner/name`.
        commit: the revision, as its hash.
        files: path → record.
        selections: what was asked for (`Reference.selector`) → its paths, the first to be opened first.
    """

    repo: str
    commit: str
    files: Mapping[str, FileRecord]
    selections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def with_selection(self, selector: str, files: Mapping[str, FileRecord]) -> Manifest:
        """The manifest with one more thing pulled, its files in the order in which they are opened."""
        return Manifest(self.repo, self.commit, {**self.files, **files}, {**self.selections, selector: tuple(files)})

    def without(self, selector: str) -> Manifest:
        """The manifest without a selection and the files that only it names."""
        kept = {name: paths for name, paths in self.selections.items() if name != selector}
        named = {path for paths in kept.values() for path in paths}
        return Manifest(self.repo, self.commit, {p: r for p, r in self.files.items() if p in named}, kept)


def changed(path: Path, record: FileRecord) -> str | None:
    """How a file differs from its record in its size or its first bytes; None if it does not."""
    try:
        size = path.stat().st_size
        if size != record.size:
            return f"{size} bytes, {record.size} were pulled"
        if header_digest(path) != record.header:
            return "its first bytes are not those that were pulled"
    except OSError as error:
        return f"pulled before, and now: {error.strerror or 'unreadable'}"
    return None


def differs(path: Path, record: FileRecord) -> str | None:
    """How a file differs from its record, every byte read; None if it does not."""
    try:
        size = path.stat().st_size
        if size != record.size:
            return f"{size} bytes, {record.size} were pulled"
        found = file_digest(path)
    except OSError as error:
        return f"pulled before, and now: {error.strerror or 'unreadable'}"
    return None if found == record.sha256 else f"sha256 is {found}, {record.sha256} was pulled"


def record_of(path: Path, sha256: str) -> FileRecord:
    """The record of a file whose digest is known.

    Raises:
        OSError: the file cannot be read.
    """
    found = path.stat()
    return FileRecord(found.st_size, sha256, header_digest(path), found.st_mtime_ns)


def header_digest(path: Path) -> str:
    """SHA-256 of a file's first `HEADER_BYTES`, hex."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read(HEADER_BYTES)).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def read_manifest(path: Path, repo: str, commit: str) -> Manifest:
    """A commit's manifest; an empty one where there is none.

    Raises:
        ModelFileError: it is no manifest of that commit.
    """
    if not path.is_file():
        return Manifest(repo, commit, {})
    data = read_json(path, limits.MAX_CONFIG_BYTES)
    try:
        files = {str(name): _record(str(name), entry) for name, entry in data["files"].items()}
        selections = {str(name): _paths(paths, files) for name, paths in data["selections"].items()}
        if (data["repo"], data["commit"]) != (repo, commit):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ModelFileError(
            f"{path}: not a manifest of {repo}.", hint=f"penstock pull {repo} writes it anew."
        ) from None
    return Manifest(repo, commit, files, selections)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Puts a manifest in its place at once, whole; one without files is removed.

    Raises:
        OSError: it cannot be written.
    """
    if not manifest.files:
        path.unlink(missing_ok=True)
        return
    write_whole(path, json.dumps(asdict(manifest), indent=1).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file aside and renames it: readers see the old one or the new one.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise


def _record(path: str, entry: Mapping[str, Any]) -> FileRecord:
    record = FileRecord(**entry)
    hashes = all(isinstance(text, str) and _SHA256.fullmatch(text) for text in (record.sha256, record.header))
    numbers = all(isinstance(count, int) and 0 <= count < 2**63 for count in (record.size, record.time_ns))
    if not (is_plain(path) and hashes and numbers):
        raise ValueError
    return record


def _paths(paths: Iterable[Any], files: Mapping[str, FileRecord]) -> tuple[str, ...]:
    found = tuple(paths)
    if not found or any(path not in files for path in found):
        raise ValueError
    return found
