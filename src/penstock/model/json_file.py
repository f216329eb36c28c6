"""JSON documents from disk, bounded in size, depth and the memory that they take before they are parsed.

Knows nothing about models. Invariant: a document that is returned is an object without duplicate keys; every other
outcome is a ModelFileError that names the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from penstock.core import ModelFileError, check_json_bounds, limits

_MAX_DIGITS = 40


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """A regular file's bytes, at most `max_bytes`.

    Raises:
        ModelFileError: it is missing, not a regular file, unreadable or too large.
    """
    try:
        if not path.is_file():
            raise ModelFileError(f"{path}: no such file.")
        size = path.stat().st_size
        if size > max_bytes:
            raise ModelFileError(f"{path}: {size} bytes; at most {max_bytes} are read.")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: cannot be read: {_reason(error)}.") from None


def read_json(path: Path, max_bytes: int = limits.MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ModelFileError: the file cannot be read, is too large or is no JSON object.
    """
    return parse_json(read_bytes(path, max_bytes), str(path))


def parse_json(data: bytes, source: str) -> dict[str, Any]:
    """The JSON object that the bytes hold; `source` names them in errors.

    Raises:
        ModelFileError: not UTF-8, not an object, duplicate keys, too deep, or too much memory once parsed.
    """
    try:
        check_json_bounds(data)
    except ValueError as error:
        raise ModelFileError(f"{source}: {error}") from None
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{source}: not valid JSON: {_reason(error)}.") from None
    if not isinstance(found, dict):
        raise ModelFileError(f"{source}: a JSON {type(found).__name__} where an object is needed.")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:80]!r} occurs twice")
    return found


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
