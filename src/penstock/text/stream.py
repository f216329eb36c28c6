"""Token ids to text, piece by piece.

Knows nothing about requests or stops. Invariant: the pieces of a stream and its flush, joined, are the text that
`Tokenizer.decode` gives for the same ids, and no piece ends in half a code point.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

_make_utf8 = codecs.getincrementaldecoder("utf-8")


class ByteStream:
    """Decodes from a table of token bytes in constant time a token.

    Bytes that can't be UTF-8 become U+FFFD, one for each maximal subpart (Unicode 16, section 3.9).

    Args:
        piece: bytes of a token id; b"" for one that is to be skipped.
        strip: leading spaces of the text that are dropped.
    """

    __slots__ = ("_decode", "_piece", "_strip")

    def __init__(self, piece: Callable[[int], bytes], strip: int) -> None:
        self._piece = piece
        self._decode = _make_utf8("replace").decode
        self._strip = strip

    def push(self, tokens: Sequence[int]) -> str:
        """Text that is certain after these tokens."""
        data = self._piece(tokens[0]) if len(tokens) == 1 else b"".join(map(self._piece, tokens))
        if self._strip and data:
            data = self._stripped(data)
        return self._decode(data)

    def flush(self) -> str:
        """U+FFFD for an incomplete code point, else nothing."""
        return self._decode(b"", True)

    def _stripped(self, data: bytes) -> bytes:
        """Drops leading spaces until the budget is spent or the text has begun."""
        while self._strip and data.startswith(b" "):
            data = data[1:]
            self._strip -= 1
        if data:
            self._strip = 0
        return data


class WindowStream:
    """Decodes any tokenizer by comparing the text of a short window with and without the new token.

    Args:
        decode: text of a list of ids.
        keep: whether an id may contribute to the text.
    """

    __slots__ = ("_decode", "_keep", "_read", "_window")

    def __init__(self, decode: Callable[[list[int]], str], keep: Callable[[int], bool]) -> None:
        self._decode = decode
        self._keep = keep
        self._window: list[int] = []
        self._read = 0  # ids of the window whose text has left

    def push(self, tokens: Sequence[int]) -> str:
        """Text that is certain after these tokens."""
        return "".join([self._push(token) for token in tokens if self._keep(token)])

    def flush(self) -> str:
        """The rest of the window's text."""
        text = self._new_text()
        self._window, self._read = [], 0
        return text

    def _push(self, token: int) -> str:
        """Text that one more token makes certain."""
        self._window.append(token)
        text = self._new_text()
        # A code point has at most four bytes: a longer run that ends in U+FFFD is not going to be completed.
        if text.endswith("�") and len(self._window) - self._read < 4:
            return ""
        self._window = self._window[self._read :]
        self._read = len(self._window)
        return text

    def _new_text(self) -> str:
        """Text of the window beyond what has left."""
        return self._decode(self._window)[len(self._decode(self._window[: self._read])) :]
