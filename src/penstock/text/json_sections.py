"""The large parts of a JSON document, gone through in chunks: a vocabulary is looked at without holding all of it.

Knows nothing about tokenizers. Invariant: never more than one chunk is parsed, and what is passed over is bounded by
the document's bytes; a document that is no JSON may be passed over wrongly, never without end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from penstock.core import ModelFileError, limits

_WS: Final = rb"[ \t\n\r]*+"
_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_NUMBER: Final = rb"-?[0-9]{1,32}+(?:\.[0-9]{1,64}+)?+(?:[eE][+-]?[0-9]{1,4}+)?+"
_ITEMS: Final = 1024  # of one chunk
_MAX_OPENED: Final = limits.MAX_ADDED_TOKENS + limits.MAX_TOKENIZER_STEPS  # in what is passed over
_MAX_CHUNK_BYTES: Final = 4 * 1024 * 1024


def _chunk(item: bytes) -> re.Pattern[bytes]:
    """Matches up to a chunk of items, each with the comma after it if it has one."""
    return re.compile(rb"(?:%b%b%b(?:,|(?=[\]}])))" % (_WS, item, _WS) + rb"{1,%d}+" % _ITEMS, re.DOTALL)


# Members whose values are numbers; texts; pairs of texts; objects without others in them; texts with a number.
COUNTED: Final = _chunk(_STRING + _WS + b":" + _WS + rb"[0-9]{1,10}+")
TEXTS: Final = _chunk(_STRING)
PAIRS: Final = _chunk(rb"\[" + _WS + _STRING + _WS + b"," + _WS + _STRING + _WS + rb"\]")
FLAT: Final = _chunk(rb"\{(?:[^{}\"]++|" + _STRING + rb")*+\}")
SCORED: Final = _chunk(rb"\[" + _WS + _STRING + _WS + b"," + _WS + _NUMBER + _WS + rb"\]")

_GAP: Final = re.compile(_WS)
_KEY: Final = re.compile(_STRING, re.DOTALL)
_SCALAR: Final = re.compile(rb'[^ \t\n\r,\[\]{}":]++')
_MARK: Final = re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_CLOSING: Final = {"{": b"}", "[": b"]"}


class Sections:
    """A document whose parts are looked at one after the other.

    Args:
        data: the document.
        max_skipped: bytes at most that may be passed over, all in all.
    """

    def __init__(self, data: bytes, max_skipped: int) -> None:
        self.data = data
        self._left = max_skipped
        self._max_skipped = max_skipped

    def after_gap(self, at: int) -> int:
        """Where the next thing begins."""
        gap = _GAP.match(self.data, at)
        assert gap is not None
        return gap.end()

    def members(self, at: int, take: Callable[[str, int], int]) -> int:
        """The offset after an object; `take` gets each member's key and its value's offset, and says where that ends.

        Raises:
            ModelFileError: no object, or a key occurs twice.
        """
        seen: set[str] = set()
        at = self.after_gap(self._expect(at, b"{"))
        while self.data[at : at + 1] != b"}":
            found = _KEY.match(self.data, at)
            key = json.loads(found[0]) if found is not None and found.end() - at < 4096 else None
            if found is None or key is None or key in seen:
                raise ModelFileError(f"not a tokenizer: the key at byte {at} is none, or occurs twice.")
            seen.add(key)
            start = self.after_gap(self._expect(self.after_gap(found.end()), b":"))
            end = take(key, start)
            at = self.after_gap(end)
            self._left -= at - end + start - found.start()
            if self.data[at : at + 1] == b",":
                at = self.after_gap(at + 1)
                self._expect(at, b'"')
            else:
                self._expect(at, b"}")
        return at + 1

    def skip(self, at: int) -> int:
        """The offset after a value.

        Raises:
            ModelFileError: no value, or too many bytes of them.
        """
        end = self._skip(at)
        self._left -= end - at
        if self._left < 0:
            raise ModelFileError(f"more than {self._max_skipped} bytes beside the vocabulary and its merges.")
        return end

    def _skip(self, at: int) -> int:
        scalar = _SCALAR.match(self.data, at)
        if scalar is not None:
            return scalar.end()
        depth, opened, limit = 0, 0, at + self._left + 1
        for mark in _MARK.finditer(self.data, at, limit):
            first = mark[0][:1]
            depth += first in b"[{"
            opened += first in b"[{"
            if opened > _MAX_OPENED:
                raise ModelFileError(f"more than {_MAX_OPENED} arrays and objects in the value at byte {at}.")
            depth -= first in b"]}"
            if depth <= 0:
                return mark.end()
        if limit < len(self.data):
            return limit  # too many bytes
        raise ModelFileError(f"not a tokenizer: ends inside the value at byte {at}.")

    def items(self, at: int, item: re.Pattern[bytes]) -> Iterator[tuple[int, Any]]:
        """(offset after it, value) of each chunk of a large object or array, and at its end (offset after it, None).

        Args:
            at: where it begins.
            item: one of the patterns of this file.

        Raises:
            ModelFileError: an item isn't of that form, isn't text, or is too long.
        """
        opening = chr(self.data[at])
        closing = _CLOSING[opening]
        at += 1
        comma = False
        while found := item.match(self.data, at):
            comma = found[0].endswith(b",")
            yield found.end(), self._parse(opening, found, closing)
            at = found.end()
        at = self.after_gap(at)
        if comma or self.data[at : at + 1] != closing:
            raise ModelFileError(f"not a tokenizer: the entry at byte {at} is not one, or is not closed.")
        yield at + 1, None

    def _parse(self, opening: str, found: re.Match[bytes], closing: bytes) -> Any:
        text = found[0].removesuffix(b",")
        if len(text) > _MAX_CHUNK_BYTES:
            raise ModelFileError(f"{len(text)} bytes in {_ITEMS} entries at byte {found.start()}.")
        try:
            value = json.loads((opening.encode() + text + closing).decode("utf-8"))
            if _SURROGATE.search(text):
                json.dumps(value, ensure_ascii=False).encode("utf-8")
        except ValueError:
            raise ModelFileError(f"not a tokenizer: invalid JSON or text after byte {found.start()}.") from None
        return value

    def _expect(self, at: int, char: bytes) -> int:
        """The offset after a character that must be there."""
        if self.data[at : at + 1] != char:
            raise ModelFileError(f"not a tokenizer: no {char.decode()} at byte {at}.")
        return at + 1
