"""JSON documents from disk, bounded in size, depth and the memory that they take before they are parsed.

Knows nothing about models. Invariant: a document that is returned is an object without duplicate keys; every other
outcome is a ModelFileError that names the file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from penstock.core import ModelFileError, limits

# A string that never ends is taken to the end of the file, and nothing is given back: the time is linear in the bytes.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_MAX_DIGITS = 40
_NO_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
# What parsing makes of a document, measured in bytes: of an array or object, of a key with its value, of a value in a
# list; and the least that a string takes.
_CONTAINER_BYTES, _PAIR_BYTES, _ITEM_BYTES, _STRING_BYTES = 90, 180, 40, 50
_WIDEST = 4  # bytes that one character beyond Latin-1 makes every character of its text take


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
    _check_bounds(data, source)
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{source}: not valid JSON: {_reason(error)}.") from None
    if not isinstance(found, dict):
        raise ModelFileError(f"{source}: a JSON {type(found).__name__} where an object is needed.")
    return found


def _check_bounds(data: bytes, source: str) -> None:
    """Passes a document whose depth, and whose memory once it is parsed, are within bounds."""
    _check_memory(len(data) + data.count(b'"') // 2 * _STRING_BYTES, data, source)
    marks = _outside_strings(data)
    opening = marks.count(b"{") + marks.count(b"[")
    wide = 1 if data.isascii() else _WIDEST
    wide_strings = wide if b"\\u" not in data else _WIDEST
    needed = (
        len(data) * (1 + wide)
        + len(marks)
        + (len(data) - len(marks)) * wide_strings
        + opening * _CONTAINER_BYTES
        + marks.count(b":") * _PAIR_BYTES
        + marks.count(b",") * _ITEM_BYTES
    )
    _check_memory(needed, data, source)
    brackets = np.frombuffer(marks.translate(None, _NO_BRACKETS), dtype=np.uint8)
    steps = np.where((brackets == ord("{")) | (brackets == ord("[")), np.int8(1), np.int8(-1))
    if len(steps) > 2 * opening:
        raise ModelFileError(f"{source}: not valid JSON: it closes what it never opened.")
    deepest = int(np.cumsum(steps, dtype=np.int32).max(initial=0))
    if deepest > limits.MAX_JSON_DEPTH:
        raise ModelFileError(f"{source}: JSON {deepest} levels deep; at most {limits.MAX_JSON_DEPTH}.")


def _outside_strings(data: bytes) -> bytearray:
    """The document without its strings, built in place: substitution keeps an object for every gap until the end."""
    found, at = bytearray(), 0
    for match in _STRING.finditer(data):
        found += data[at : match.start()]
        at = match.end()
    found += data[at:]
    return found


def _check_memory(needed: int, data: bytes, source: str) -> None:
    if needed > limits.MAX_OVERHEAD_BYTES + len(data):
        raise ModelFileError(
            f"{source}: would take {needed} bytes of memory; at most {limits.MAX_OVERHEAD_BYTES} above its size."
        )


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
