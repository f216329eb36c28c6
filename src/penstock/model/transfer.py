"""One file from the hub into a blob: resumed where it stopped, retried, and checked before it has its name.

Knows nothing about repositories or caches. Invariant: a blob exists only with the digest that the hub promised; what
is not whole keeps its `.incomplete` name and is continued by the next attempt, in this process or a later one.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import WeakFileLock, hf_raise_for_status  # type: ignore[attr-defined]  # public, not typed so

from penstock.core import ModelFileError, limits

# The client's transport library differs by its version; what its own error derives from is any failure of a request.
TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
_CHUNK_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 8 * 1024**3  # content networks send no larger answers than some tens of GB
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub lists it.

    Attributes:
        path: in the repository.
        size: in bytes.
        digest: what its contents hash to, hex: SHA-256 (64 digits), or git's SHA-1 of a blob (40 digits).
    """

    path: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """How files are fetched.

    Attributes:
        get: a streamed GET of a file's bytes [first, end); its context gives the client's response.
        report: called with (path, bytes on disk so far) as they arrive.
        wait: sleeps for seconds.
    """

    get: Callable[[RemoteFile, int, int], AbstractContextManager[Any]]
    report: Callable[[str, int], None]
    wait: Callable[[float], object]

    def fetch(self, file: RemoteFile, blob: Path, lock: Path) -> str:
        """The file's SHA-256, hex, once it is whole at `blob`; what is there already is checked, not fetched.

        Raises:
            ModelFileError: its contents are not what the hub promised.
            HfHubHTTPError, TRANSPORT_ERROR: the hub refuses, or the connection keeps breaking.
            OSError: the disk is full or cannot be written.
        """
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if blob.is_file():
                digest = Digest(file)
                digest.add_file(blob)
                if digest.matches():
                    self.report(file.path, file.size)
                    return digest.sha256()
            part = blob.with_name(f"{blob.name}.incomplete")
            resumed = part.exists()
            digest = self._whole(file, part)
            if not digest.matches() and resumed:  # what an earlier attempt left was bad: once more from the start
                part.unlink()
                digest = self._whole(file, part)
            if not digest.matches():
                part.unlink()
                raise ModelFileError(
                    f"{file.path}: what arrived has the digest {digest.found()}, the hub promised {file.digest}.",
                    hint="pull again; if it stays so, the hub or a proxy serves another file.",
                )
            os.replace(part, blob)
            return digest.sha256()

    def _whole(self, file: RemoteFile, part: Path) -> Digest:
        """The digest of the part once it has the file's size; broken connections are continued."""
        digest = Digest(file)
        if part.exists():
            digest.add_file(part)
        failures = 0
        while digest.size != file.size or not part.exists():
            before = digest.size
            try:
                self._stream(file, part, digest)
                if digest.size != min(before + MAX_ANSWER_BYTES, file.size):
                    raise TRANSPORT_ERROR(f"ended after {digest.size} of {file.size} bytes")
            except TRANSPORT_ERROR as error:
                failures = 0 if digest.size > before else failures + 1
                self.wait(_pause(error, failures))
        return digest

    def _stream(self, file: RemoteFile, part: Path, digest: Digest) -> None:
        """Appends what one answer brings to the part, and to its digest: the two always hold the same bytes."""
        if digest.size > file.size:
            _restart(part, digest)
        with self.get(file, digest.size, min(digest.size + MAX_ANSWER_BYTES, file.size)) as response:
            if response.status_code != 416:
                hf_raise_for_status(response)
            if response.status_code != 206 or not _continues(response, digest.size, file.size):
                _restart(part, digest)  # the part was no beginning of the file as it is now
            if response.status_code != 416:
                _append(response, part, digest, file, self.report)


class Digest:
    """Hashes of a file's bytes so far: SHA-256, and git's blob hash where the hub promises that."""

    def __init__(self, file: RemoteFile) -> None:
        """Nothing hashed yet."""
        self._file = file
        self.reset()

    def reset(self) -> None:
        """Forgets what was hashed."""
        self.size = 0
        self._sha256 = hashlib.sha256()
        is_git = len(self._file.digest) == 40
        self._git = hashlib.sha1(b"blob %d\0" % self._file.size, usedforsecurity=False) if is_git else None

    def add(self, data: bytes) -> None:
        """Hashes what comes next."""
        self.size += len(data)
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    def add_file(self, path: Path) -> None:
        """Hashes a file's bytes."""
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                self.add(chunk)

    def sha256(self) -> str:
        """SHA-256 so far, hex."""
        return self._sha256.hexdigest()

    def found(self) -> str:
        """The hash of the kind that the hub promises, hex."""
        return self.sha256() if self._git is None else self._git.hexdigest()

    def matches(self) -> bool:
        """Whether the bytes so far are the promised ones."""
        return self.found() == self._file.digest


def retry_after_s(error: Exception) -> float | None:
    """Seconds that a refusal asks to wait, or None."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except ValueError:
        return None


def _pause(error: Exception, failures: int) -> float:
    """Seconds until the next attempt; raises the error again where there should be none."""
    response = getattr(error, "response", None)
    if failures > limits.MAX_HUB_RETRIES or (response is not None and response.status_code not in _RETRIED):
        raise error
    asked = retry_after_s(error)
    if asked is not None and asked > limits.MAX_HUB_WAIT_S:
        raise error
    return asked if asked is not None else min(2.0**failures, limits.MAX_HUB_WAIT_S) / 2


def _restart(part: Path, digest: Digest) -> None:
    part.unlink(missing_ok=True)
    digest.reset()


def _continues(response: Any, at: int, size: int) -> bool:
    """Whether a partial answer begins at the byte that was asked for."""
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == at and int(match[3]) == size


def _append(response: Any, part: Path, digest: Digest, file: RemoteFile, report: Callable[[str, int], None]) -> None:
    with part.open("ab") as out:
        for chunk in response.iter_bytes():  # as they arrive: nothing is lost when it breaks
            if digest.size + len(chunk) > file.size:
                raise ModelFileError(f"{file.path}: the hub sends more than the {file.size} bytes that it lists.")
            out.write(chunk)
            digest.add(chunk)
            report(file.path, digest.size)
