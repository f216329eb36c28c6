"""What a JSON document will take, found before it is parsed: depth, and memory of what parsing makes of it.

Knows nothing about files or requests. Invariant: linear in the document's bytes, in time and in memory.
"""

from __future__ import annotations

import re
from itertools import accumulate

from penstock.core import limits

# A string that never ends is taken to the end of the file, and nothing is given back: the time is linear in the bytes.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_STEPS = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
# What parsing makes of a document, measured in bytes: of an array or object, of a key with its value, of a value in a
# list; and the least that a string takes.
_CONTAINER_BYTES, _PAIR_BYTES, _ITEM_BYTES, _STRING_BYTES = 90, 180, 40, 50
_WIDEST = 4  # bytes that one character beyond Latin-1 makes every character of its text take


def check_json_bounds(data: bytes, max_overhead_bytes: int = limits.MAX_OVERHEAD_BYTES) -> None:
    """Passes a document whose depth, and whose memory while it is parsed, are within bounds.

    Args:
        data: the document.
        max_overhead_bytes: memory beyond the document's own size.

    Raises:
        ValueError: it is too deep or would take too much, or closes what it never opened; says which.
    """
    _check_memory(len(data) + data.count(b'"') // 2 * _STRING_BYTES, len(data), max_overhead_bytes)
    marks = _outside_strings(data)
    opening = marks.count(b"{") + marks.count(b"[")
    wide = 1 if data.isascii() else _WIDEST
    needed = (
        len(data) * (1 + wide)
        + len(marks)
        + (len(data) - len(marks)) * (wide if b"\\u" not in data else _WIDEST)
        + opening * _CONTAINER_BYTES
        + marks.count(b":") * _PAIR_BYTES
        + marks.count(b",") * _ITEM_BYTES
    )
    _check_memory(needed, len(data), max_overhead_bytes)
    brackets = marks.translate(None, _NO_BRACKETS)
    if len(brackets) > 2 * opening:
        raise ValueError("not valid JSON: it closes what it never opened.")
    deepest = max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)
    if deepest > limits.MAX_JSON_DEPTH:
        raise ValueError(f"JSON {deepest} levels deep; at most {limits.MAX_JSON_DEPTH}.")


def _outside_strings(data: bytes) -> bytearray:
    """The document without its strings, built in place: substitution keeps an object for every gap until the end."""
    found, at = bytearray(), 0
    for match in _STRING.finditer(data):
        found += data[at : match.start()]
        at = match.end()
    found += data[at:]
    return found


def _check_memory(needed: int, size: int, max_overhead_bytes: int) -> None:
    if needed > max_overhead_bytes + size:
        raise ValueError(f"would take {needed} bytes of memory; at most {max_overhead_bytes} above its size.")
