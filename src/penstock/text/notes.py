"""What was found in large files, kept for the next start: looking closely at a vocabulary takes longer than reading it.

Knows nothing about what the facts mean. Invariant: a note is believed only if it is the user's own, small and whole;
where one can't be read or written, the file is looked at again and nothing else changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.core import check_json_bounds, limits

_FORM = 1  # raised when what is looked at changes
_MAX_NOTES = 256
_MAX_BYTES = 1024 * 1024
_SUFFIX = ".json"


class Notes:
    """Facts about files by the digest of what they were found in, in one folder that only its user may write."""

    def __init__(self, folder: Path) -> None:
        """Notes in `folder`, which is made when the first is written."""
        self._folder = folder

    @staticmethod
    def key(data: bytes, *circumstances: str) -> str:
        """The name of a note about `data` that also depends on `circumstances`, and on every limit of this version."""
        bounds = sorted((name, value) for name, value in vars(limits).items() if name.isupper())
        digest = hashlib.sha256(json.dumps([_FORM, repr(bounds), *circumstances]).encode())
        digest.update(data)
        return digest.hexdigest()

    def find(self, key: str) -> dict[str, Any] | None:
        """The facts kept under `key`, or None."""
        path = self._folder / (key + _SUFFIX)
        try:
            with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
                found = os.fstat(file.fileno())
                foreign = hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & 0o022)
                if foreign or not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_BYTES:
                    return None
                data = file.read(_MAX_BYTES)
            check_json_bounds(data)
            facts = json.loads(data)
            os.utime(path)
        except (OSError, ValueError):
            return None
        return facts if isinstance(facts, dict) else None

    def keep(self, key: str, facts: Mapping[str, Any]) -> None:
        """Writes facts aside and gives them their name; the notes used longest ago go."""
        data = json.dumps(facts).encode()
        if len(data) > _MAX_BYTES:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, aside = tempfile.mkstemp(dir=self._folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                os.replace(aside, self._folder / (key + _SUFFIX))
            except OSError:
                os.unlink(aside)
                raise
            notes = sorted(self._folder.glob("*" + _SUFFIX), key=lambda path: path.stat().st_mtime_ns)
            for path in notes[:-_MAX_NOTES]:
                path.unlink()
