"""SentencePiece's map of characters: what a text's characters become before the model sees them.

Knows nothing about models. The map is a trie in a double array (Aoe 1989, laid out as the darts-clone library does)
whose leaves point into a block of zero-terminated replacements. Invariant: the longest key that begins at a position
is replaced; a position where none begins keeps its character; a step that leads out of the file leads nowhere.
"""

from __future__ import annotations

from array import array
from typing import Final

from penstock.core import ModelFileError
from penstock.text.spm import Kind, Pieces

_MAX_KEY_CHARS: Final = 64
_MAX_REMEMBERED: Final = 65_536


class CharsMap:
    """A map of characters; call it with a text.

    Args:
        data: the map as SentencePiece stores it.
        keep: pieces that stay as they are wherever they stand.

    Raises:
        ModelFileError: the map is broken.
    """

    @classmethod
    def of(cls, data: bytes, pieces: Pieces) -> CharsMap | None:
        """The map of a model, which leaves the pieces that users defined alone; None for an empty map."""
        return cls(data, [pieces.names[id] for id in pieces.of(Kind.USER)]) if data else None

    def __init__(self, data: bytes, keep: list[str]) -> None:
        size = int.from_bytes(data[:4], "little")
        if size % 4 or not 4 <= size <= len(data) - 4:
            raise ModelFileError(f"character map: a trie of {size} bytes in {len(data)}.")
        self._units = array("I", data[4 : 4 + size])
        self._block = data[4 + size :]
        self._root = _offset(self._units[0])
        self._keep: dict[str, list[str]] = {}
        for name in sorted(filter(None, keep), key=len, reverse=True):
            self._keep.setdefault(name[0], []).append(name)
        self._steps: dict[tuple[int, str], tuple[int, str | None] | None] = {}

    def __call__(self, text: str) -> str:
        """The text with its characters replaced."""
        parts: list[str] = []
        at = 0
        while at < len(text):
            part, at = self._longest(text, at)
            parts.append(part)
        return "".join(parts)

    def _longest(self, text: str, at: int) -> tuple[str, int]:
        """What stands for the longest key at a position, and where that key ends."""
        for name in self._keep.get(text[at], ()):
            if text.startswith(name, at):
                return name, at + len(name)
        node, found, end = self._root, text[at], at + 1
        for here in range(at, min(len(text), at + _MAX_KEY_CHARS)):
            step = self._step(node, text[here])
            if step is None:
                break
            node, value = step
            if value is not None:
                found, end = value, here + 1
        return found, end

    def _step(self, node: int, char: str) -> tuple[int, str | None] | None:
        """(node, replacement) after one more character; None where no key goes on with it."""
        try:
            return self._steps[node, char]
        except KeyError:
            if len(self._steps) >= _MAX_REMEMBERED:
                self._steps.clear()
            step = self._steps[node, char] = self._walk(node, char)
            return step

    def _walk(self, node: int, char: str) -> tuple[int, str | None] | None:
        """The same, looked up."""
        units = self._units
        unit = 0
        for byte in char.encode():
            at = node ^ byte
            if at >= len(units) or units[at] & 0x800000FF != byte:
                return None
            unit = units[at]
            node = at ^ _offset(unit)
        if not unit >> 8 & 1 or node >= len(units):
            return node, None
        return node, self._replacement(units[node] & 0x7FFFFFFF)

    def _replacement(self, at: int) -> str | None:
        """The string at an offset of the block."""
        end = self._block.find(b"\x00", at)
        return None if end < 0 else self._block[at:end].decode("utf-8", "replace")


def _offset(unit: int) -> int:
    """Where the children of a unit begin."""
    return unit >> 10 << ((unit & 0x200) >> 6)
