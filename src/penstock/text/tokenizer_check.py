"""What a `tokenizer.json` holds, found before the library that it was written for builds anything from it.

Knows nothing about what the library makes of it. The library takes up to fourteen times the bytes of a vocabulary and
its merges while it reads them, and keeps them where it refuses; so what it would refuse there is refused here, and
everything else is tried on the file without them. Invariant: memory is that of one chunk, and of a number an entry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final

from penstock.core import ModelFileError, check_json_bounds, limits
from penstock.text.json_sections import COUNTED, PAIRS, SCORED, TEXTS, Sections

_SPACES: Final = repeat(" ")
_PROBES: Final = ("a", "▁a")  # what is encoded to see which ids go around a text
_STAND_INS: Final = {"{": b"{}", "[": b'[["a",0.0]]'}


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """What was found.

    Attributes:
        skeleton: the file without its vocabulary and merges.
        size: the end of the ids that the vocabulary has, and its added tokens will get.
        added: where the list of added tokens is in the file; (0, 0) for none.
    """

    skeleton: bytes
    size: int
    added: tuple[int, int]


def examine(data: bytes) -> TokenizerFacts:
    """The facts of a file whose vocabulary, merges and sizes are sound.

    Raises:
        ModelFileError: one of them is not; it does not know the file's name.
    """
    try:
        return _Examination(data).facts()
    except (ValueError, RecursionError):
        raise ModelFileError("not a tokenizer: invalid JSON or text in it.") from None


class _Examination:
    """One file, gone through from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        self._sections = Sections(data, limits.MAX_TOKENIZER_REST_BYTES)
        self._data = data
        self._cuts: list[tuple[int, int, bytes]] = []  # (start, end, what stands there instead)
        self._added = (0, 0)
        self._prefix: int | None = None  # bytes that a merge's second piece loses, once it was said
        self._unknown: tuple[int, int] | None = None
        self._unknown_text: str | None = None
        self._scored = False
        self._late_merges = 0  # where they begin, if they must be looked at again at the end
        self._num_pieces = self._num_bytes = self._size = 0
        self._known: set[int] = set()  # hashes of the pieces: two that share one are a fault unnoticed here, no more

    def facts(self) -> TokenizerFacts:
        """See `examine`."""
        end = self._sections.members(self._sections.after_gap(0), self._top)
        if self._sections.after_gap(end) != len(self._data):
            raise ModelFileError(f"not a tokenizer: more follows byte {end}.")
        if self._late_merges:
            self._take_merges(self._late_merges, True)
        self._check_unknown()
        skeleton = self._skeleton()
        _check_rest(skeleton, self._data[slice(*self._added)])
        new = self._new_ids()
        return TokenizerFacts(skeleton, max(self._size, self._num_pieces + new if new else 0), self._added)

    def _top(self, key: str, at: int) -> int:
        """A member of the whole."""
        if key == "model" and self._data[at : at + 1] == b"{":
            return self._sections.members(at, self._model)
        end = self._sections.skip(at)
        if key == "added_tokens":
            self._added = (at, end)
        return end

    def _model(self, key: str, at: int) -> int:
        """A member of the model."""
        opening = self._data[at : at + 1]
        if key == "vocab" and opening in (b"{", b"["):
            end = self._take_vocabulary(at)
            self._cuts.append((at, end, _STAND_INS[opening.decode()]))
            return end
        if key == "merges" and opening == b"[":
            known = bool(self._known) and self._prefix is not None
            self._late_merges = 0 if known else at  # what they are measured by may still come
            end = self._take_merges(at, known)
            self._cuts.append((at, end, b"[]"))
            return end
        end = self._sections.skip(at)
        if key == "continuing_subword_prefix":
            self._prefix = len(json.loads(self._data[at:end]).encode()) if opening == b'"' else 0
        if key == "unk_id":
            self._unknown = at, end
        if key == "unk_token":
            self._unknown_text = json.loads(self._data[at:end]) if opening == b'"' else None
        return end

    def _take_vocabulary(self, at: int) -> int:
        """Looks at the pieces, with ids or with scores; returns the offset after them."""
        counted = self._data[at : at + 1] == b"{"
        self._scored = not counted
        for end, chunk in self._sections.items(at, COUNTED if counted else SCORED):
            if chunk is None:
                if not counted and not self._num_pieces:
                    raise ModelFileError("the vocabulary is empty.")
                return end
            names = list(chunk) if counted else [name for name, _ in chunk]
            self._num_pieces += len(names)
            self._num_bytes += len("".join(names).encode())
            if not counted and not all(math.isfinite(score) for _, score in chunk):
                raise ModelFileError("a token's score isn't a finite number.")
            self._size = max(self._size, max(chunk.values()) + 1 if counted else self._num_pieces)
            self._known.update(map(hash, names))
            self._check_pieces(names, counted)
        raise AssertionError("items end with their end")

    def _check_pieces(self, names: Sequence[str], counted: bool) -> None:
        """Passes a vocabulary so far."""
        if self._num_pieces > limits.MAX_PIECES or self._size > limits.MAX_VOCAB:
            raise ModelFileError(
                f"more than {limits.MAX_PIECES} tokens, or ids up to {self._size - 1}; at most {limits.MAX_VOCAB} ids."
            )
        if (longest := max(map(len, names))) > limits.MAX_PIECE_CHARS:
            raise ModelFileError(f"a token of {longest} characters, at most {limits.MAX_PIECE_CHARS} are taken.")
        if not counted and self._num_bytes > limits.MAX_UNIGRAM_BYTES:
            raise ModelFileError(f"more than {limits.MAX_UNIGRAM_BYTES} bytes in the pieces of a unigram model.")

    def _take_merges(self, at: int, whole_known: bool) -> int:
        """Looks at the merges; returns the offset after them.

        Args:
            at: where they begin.
            whole_known: the vocabulary was seen before; else only their form is looked at.
        """
        texts = TEXTS.match(self._data, at + 1) is not None
        count = 0
        for end, chunk in self._sections.items(at, TEXTS if texts else PAIRS):
            if chunk is None:
                return end
            count += len(chunk)
            if count > limits.MAX_MERGES:
                raise ModelFileError(f"more than {limits.MAX_MERGES} merges.")
            if texts:
                chunk = [line for line in chunk if not line.startswith("#version")]  # as the library does
                if wrong := [
                    line for line, spaces in zip(chunk, map(str.count, chunk, _SPACES), strict=False) if spaces != 1
                ]:
                    raise ModelFileError(f"the merge {wrong[0][:64]!r} is not two pieces.")
            if whole_known:
                self._check_merges(" ".join(chunk).split(" ") if texts else list(chain.from_iterable(chunk)))
        raise AssertionError("items end with their end")

    def _check_merges(self, pieces: list[str]) -> None:
        """Passes merges of known pieces into known pieces: at others the library refuses, or panics and prints that.

        Args:
            pieces: left and right ones in turn.
        """
        lefts, rights = pieces[::2], pieces[1::2]
        if self._prefix:
            if (short := next((right for right in rights if len(right.encode()) < self._prefix), None)) is not None:
                raise ModelFileError(f"a merge's second piece {short!r} is shorter than continuing_subword_prefix.")
            rights = [right.encode()[self._prefix :].decode("utf-8", "replace") for right in rights]
        whole = list(map(str.__add__, lefts, rights))
        for names in (pieces, whole):
            if not self._known.issuperset(map(hash, names)):
                name = next(name for name in names if hash(name) not in self._known)
                raise ModelFileError(f"merges name {name[:64]!r}, which is not in the vocabulary.")

    def _check_unknown(self) -> None:
        """Passes the unknown token; a unigram model's is what the skeleton names as its only piece."""
        start, end = self._unknown or (0, 0)
        text = self._data[start:end]
        named = self._unknown_text is not None and hash(self._unknown_text) not in self._known
        if (named or (self._scored and not text.isdigit())) and self._known.isdisjoint(map(hash, _PROBES)):
            raise ModelFileError("the vocabulary has neither the letter a nor an unknown token to stand for it.")
        if text.isdigit():
            if len(text) > 9 or int(text) >= self._num_pieces:
                raise ModelFileError(f"unk_id is {text[:20].decode()}, the vocabulary has {self._num_pieces} tokens.")
            self._cuts.append((start, end, b"0"))

    def _skeleton(self) -> bytes:
        """The file without what is large."""
        parts, at = [], 0
        for start, end, instead in sorted(self._cuts):
            parts += [self._data[at:start], instead]
            at = end
        return b"".join([*parts, self._data[at:]])

    def _new_ids(self) -> int:
        """How many added tokens the vocabulary lacks."""
        start, end = self._added
        entries = json.loads(self._data[start:end]) if end else []
        names = {entry.get("content") for entry in entries or () if isinstance(entry, Mapping)} if entries else set()
        spelled = [name for name in names if isinstance(name, str)]
        _check_added(len(entries or ()), spelled)
        return sum(hash(name) not in self._known for name in spelled)


def _check_rest(skeleton: bytes, added: bytes) -> None:
    """Passes a rest of the file that Python and the library may parse."""
    for marks, limit in ((b"{[", limits.MAX_TOKENIZER_STEPS), (b",", 8 * limits.MAX_TOKENIZER_STEPS)):
        count = sum(skeleton.count(mark) - added.count(mark) for mark in (marks[:1], marks[1:]) if mark)
        if count > limit:
            raise ModelFileError(f"{count} times {marks.decode()} beside vocabulary and tokens, at most {limit}.")
    try:
        check_json_bounds(skeleton)
    except ValueError as error:
        raise ModelFileError(f"not a tokenizer: {error}") from None


def _check_added(count: int, names: Sequence[str]) -> None:
    """Passes added tokens: the library makes a state of a machine of each of their bytes."""
    if count > limits.MAX_ADDED_TOKENS:
        raise ModelFileError(f"{count} added tokens, at most {limits.MAX_ADDED_TOKENS} are taken.")
    if (size := sum(map(len, names))) > limits.MAX_ADDED_CHARS:
        raise ModelFileError(f"{size} characters in added tokens, at most {limits.MAX_ADDED_CHARS} are taken.")
