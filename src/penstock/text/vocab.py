"""Control tokens in text: where they stand, and how to write a text so that none of them is in it.

Knows nothing about templates or files. Invariant: a control token's id comes out of `encode` only where the caller
allowed it; the same characters in plain text are spelled with ordinary tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from penstock.core import ModelFileError, limits

_LOOKS_LIKE_CONTROL = re.compile(r"<[|｜].*[|｜]>|\[/?INST\]|<(start|end)_of_turn>")  # <s> may be HTML


def looks_like_control(text: str) -> bool:
    """Whether a token's spelling is that of a token that steers: some published files forget to mark theirs."""
    return _LOOKS_LIKE_CONTROL.fullmatch(text) is not None


def check_size(size: int, max_ids: int) -> None:
    """Passes a vocabulary whose ids all have a row in the model's embedding.

    Raises:
        ModelFileError: it has more.
    """
    if size > max_ids:
        raise ModelFileError(
            f"{size} ids in the tokenizer, {max_ids} embedding rows.",
            hint="the tokenizer belongs to another model.",
        )


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A token that steers the model.

    Attributes:
        id: its id.
        text: its spelling.
        lstrip: swallows white space before it.
        rstrip: swallows white space after it.
        single_word: only where no letter or digit touches it.
    """

    id: int
    text: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


def _check_lengths(lengths: list[int]) -> None:
    """Passes spellings whose beginnings and ends, which are kept, take little memory.

    Raises:
        ModelFileError: they would take much.
    """
    if (longest := max(lengths, default=0)) > limits.MAX_PIECE_CHARS:
        raise ModelFileError(f"a control token of {longest} characters; at most {limits.MAX_PIECE_CHARS} are taken.")
    if (parts := sum(length * length // 2 for length in lengths)) > limits.MAX_CONTROL_PARTS:
        raise ModelFileError(
            f"{len(lengths)} control tokens with {parts} characters in their beginnings; at most "
            f"{limits.MAX_CONTROL_PARTS} are taken."
        )


class ControlTokens:
    """The control tokens of a vocabulary: by id, by spelling, and found in text.

    Args:
        tokens: the control tokens; empty spellings are ignored in text.
        unknown: the one that stands for characters the vocabulary lacks; it may come out of ordinary text.

    Raises:
        ModelFileError: a spelling is longer than any real one, or all together are.
    """

    def __init__(self, tokens: list[ControlToken], unknown: int | None = None) -> None:
        spelled = [token for token in tokens if token.text]
        _check_lengths([len(token.text) for token in spelled])
        self.ids = frozenset(token.id for token in tokens)
        self.forbidden = self.ids - {unknown}
        self._by_text: Mapping[str, int] = {token.text: token.id for token in spelled}
        ordered = sorted(spelled, key=lambda token: -len(token.text))  # the longest first: alternation takes the first
        self._scan = re.compile("|".join(map(_pattern, ordered)) or r"(?!)")
        self._plain = re.compile("|".join(re.escape(token.text) for token in ordered) or r"(?!)")
        self._heads = frozenset(token.text[:size] for token in spelled for size in range(1, len(token.text)))
        self._tails = frozenset(token.text[-size:] for token in spelled for size in range(1, len(token.text)))
        self._longest = max((len(token.text) for token in spelled), default=0)

    def id_of(self, text: str) -> int | None:
        """The id of the control token with that spelling, or None."""
        return self._by_text.get(text)

    def texts(self) -> Iterator[tuple[int, str]]:
        """(id, spelling) of each that has one."""
        return ((id, text) for text, id in self._by_text.items())

    def split(self, text: str) -> Iterator[tuple[int, str, int | None]]:
        """(offset, ordinary text, control id after it) in order; the last one has no control id."""
        at = 0
        for match in self._scan.finditer(text):
            yield at, text[at : match.start()], self._by_text[self._spelling(match)]
            at = match.end()
        yield at, text[at:], None

    def occurrences(self, text: str) -> Iterator[tuple[int, int]]:
        """Spans that spell a control token."""
        for match in self._plain.finditer(text):
            yield match.span()

    def risky(self, text: str) -> list[tuple[int, int]]:
        """Spans that spell a control token, or that could with what is written before or after the text."""
        spans = list(self.occurrences(text))
        first = spans[0][0] if spans else len(text)
        last = spans[-1][1] if spans else 0
        reach = min(self._longest, len(text) + 1)
        head = next((size for size in range(reach - 1, 0, -1) if size <= first and text[:size] in self._tails), 0)
        floor = max(last, head)
        tail = next(
            (size for size in range(reach - 1, 0, -1) if len(text) - size >= floor and text[-size:] in self._heads), 0
        )
        front = [(0, head)] if head else []
        back = [(len(text) - tail, len(text))] if tail else []
        return [*front, *spans, *back]

    def _spelling(self, match: re.Match[str]) -> str:
        """The control token inside a match that may carry swallowed white space."""
        text = match[0]
        return text if text in self._by_text else text.strip()


def _pattern(token: ControlToken) -> str:
    """The regular expression of one control token with its white space and word borders."""
    body = re.escape(token.text)
    if token.single_word:
        body = rf"(?<!\w){body}(?!\w)"
    return (r"\s*" if token.lstrip else "") + body + (r"\s*" if token.rstrip else "")
