"""SentencePiece's two models, BPE by score and unigram, built for the `tokenizers` library (Kudo and Richardson 2018).

Knows nothing about where a vocabulary comes from: a GGUF file and a SentencePiece file list the same facts. Invariant:
ids are those of the SentencePiece library; a vocabulary for which that can't be had is refused.

SentencePiece merges the neighbours whose piece has the best score, the leftmost first among equals. The library merges
by rank, and a rank belongs to a pair. The two agree when every pair is ranked by its piece's score and, where two
overlapping pairs score the same, the left one has the better rank; pairs with a long left part come first because
leftmost merging leaves the longer pieces of a run of equal characters on its left side.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain, groupby, islice
from typing import Final

from tokenizers import AddedToken, Regex, decoders, normalizers
from tokenizers import Tokenizer as HfTokenizer
from tokenizers.models import BPE, Unigram
from tokenizers.pre_tokenizers import Split

from penstock.core import ModelFileError, limits

SPACE: Final = "▁"
_MAX_TIED = 64  # pieces of one score whose merges overlap; real files have a few runs of spaces
_NO_TEXT: Final = " \ufdd0"  # no text has a space once spaces are written as U+2581, nor a noncharacter
_SPACES = re.compile(" {2,}")


class Kind(IntEnum):
    """What a piece is, in the numbers that SentencePiece and GGUF share."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Pieces:
    """A vocabulary: names, kinds and scores by id, the same length each."""

    names: list[str]
    kinds: list[int]
    scores: list[float]

    def of(self, *kinds: Kind) -> Iterator[int]:
        """Ids of the pieces of these kinds, ascending."""
        return (id for id, kind in enumerate(self.kinds) if kind in kinds)


@dataclass(frozen=True, slots=True)
class SpmText:
    """What SentencePiece does to a text before it looks for pieces, except writing spaces as U+2581.

    Attributes:
        dummy_prefix: a space goes before a text that isn't empty.
        squeeze: spaces at both ends go, runs of them become one.
        charsmap: what characters become first, or None.
    """

    dummy_prefix: bool = True
    squeeze: bool = False
    charsmap: Callable[[str], str] | None = None

    @property
    def shrinks(self) -> bool:
        """Whether any number of characters may go."""
        return self.squeeze or self.charsmap is not None

    def __call__(self, text: str) -> str:
        """The text as the model sees it."""
        if self.charsmap is not None:
            text = self.charsmap(text)
        if self.squeeze:
            text = _SPACES.sub(" ", text.strip(" "))
        text = " " + text if self.dummy_prefix and text else text
        return text.rstrip(" " + SPACE) if self.squeeze else text


def build_spm(pieces: Pieces, *, text: SpmText, unigram: bool = False, escape: bool = True) -> HfTokenizer:
    """The tokenizer of a SentencePiece vocabulary; texts must have been through `text`.

    Args:
        pieces: the vocabulary.
        text: what is done to texts before; tells whether decoding drops a leading space.
        unigram: the model is a unigram one, else BPE by score.
        escape: spaces are written as U+2581 in the pieces.

    Raises:
        ModelFileError: pieces that can't be had exactly.
    """
    hf = HfTokenizer(_unigram(pieces) if unigram else _bpe(pieces))
    if escape:
        hf.normalizer = normalizers.Replace(" ", SPACE)
    spaces: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")] if escape else []
    strip: list[decoders.Decoder] = [decoders.Strip(" ", 1, 0)] if text.dummy_prefix else []
    hf.decoder = decoders.Sequence([*spaces, decoders.ByteFallback(), decoders.Fuse(), *strip])
    if not unigram:
        hf.add_special_tokens(
            [AddedToken(pieces.names[id], normalized=False) for id in pieces.of(Kind.CONTROL, Kind.UNKNOWN)]
        )
        # Looked for in the text with its spaces already written as U+2581, which a name may spell either way.
        hf.add_tokens([AddedToken(pieces.names[id], normalized=True) for id in pieces.of(Kind.USER)])
        hf.encode_special_tokens = True
    elif any(pieces.of(Kind.BYTE)):
        hf.pre_tokenizer = Split(Regex("<(?=0x[0-9A-F]{2}>)"), behavior="merged_with_previous")
    return hf


def score_merges(names: Sequence[str], scores: Sequence[float], parts: Container[str]) -> list[tuple[str, str]]:
    """Every way to put one of `names` together from two of `parts`, in the order in which they merge.

    Raises:
        ModelFileError: too many ways, or many pieces share a score, so that leftmost-first can't be told from ranks.
    """
    places, counts = _cuts(names, parts)
    merged = sorted(score for score, count in zip(scores, counts, strict=True) if count)
    shared = max(((len(list(alike)), score) for score, alike in groupby(merged)), default=(0, 0.0))
    if shared[0] > _MAX_TIED:
        raise ModelFileError(
            f"{shared[0]} pieces have the same score {shared[1]:g}, at most {_MAX_TIED} may.",
            hint="the order of merges is lost in this file; convert the model again.",
        )
    every = iter(places)
    cut = {name: list(islice(every, count)) for name, count in zip(names, counts, strict=True) if count}
    best = {name: -score for name, score in zip(names, scores, strict=True) if name in cut}
    tied = shared[0] > 1
    order = sorted(cut, key=best.__getitem__)
    if tied:
        return _with_ties(order, best, cut)
    return [(name[:at], name[at:]) for name in order for at in cut[name]]


def _cuts(names: Sequence[str], parts: Container[str]) -> tuple[array[int], array[int]]:
    """Where each name falls into two parts, the last place first, one name after the other; and how often each does.

    Raises:
        ModelFileError: there are more merges than the largest published vocabularies have.
    """
    places, counts = array("H"), array("H")  # a vocabulary without order is refused before lists are made
    for name in names:
        before = len(places)
        places.extend(at for at in range(len(name) - 1, 0, -1) if name[:at] in parts and name[at:] in parts)
        counts.append(len(places) - before)
        if len(places) > limits.MAX_MERGES:
            raise ModelFileError(f"more than {limits.MAX_MERGES} merges.")
    return places, counts


def _with_ties(order: list[str], best: dict[str, float], cut: dict[str, list[int]]) -> list[tuple[str, str]]:
    """The same where pieces share scores: among equals the longer left part first, then the longer right part."""
    pairs = [(best[name], -at, at - len(name), name) for name in order for at in cut[name]]
    pairs.sort()
    return [(name[:-left], name[-left:]) for _, left, _, name in pairs]


def _bpe(pieces: Pieces) -> BPE:
    """BPE by score."""
    normal = list(pieces.of(Kind.NORMAL))
    names = [pieces.names[id] for id in normal]
    unused = {pieces.names[id] for id in pieces.of(Kind.UNUSED)}
    parts = {*names, *unused}
    letters = set(chain.from_iterable(names)) - parts - {pieces.names[id] for id in pieces.of(Kind.USER)}
    if letters:
        raise ModelFileError(f"{len(letters)} characters are in pieces but aren't pieces, {min(letters)!r} for one.")
    if any(name[:at] in parts and name[at:] in parts for name in unused for at in range(1, len(name))):
        raise ModelFileError("merges lead to unused pieces, which can't be split again.")
    merges = score_merges(names, [pieces.scores[id] for id in normal], parts)
    vocab = {name: id for id, name in enumerate(pieces.names)}
    fallback = sum(1 for _ in pieces.of(Kind.BYTE)) == 256
    return BPE(vocab, merges, unk_token=_unknown(pieces), fuse_unk=True, byte_fallback=fallback)


def _unigram(pieces: Pieces) -> Unigram:
    """The unigram model: the segmentation with the best sum of scores.

    The library looks for every name in the text, so what is no text goes by another name here. Bytes must keep theirs:
    a text that spells one is cut after the first character of it. Pieces that users define nearly always win, by
    SentencePiece's own formula, whose best score is never below zero.
    """
    if (size := sum(len(name.encode()) for name in pieces.names)) > limits.MAX_UNIGRAM_BYTES:
        raise ModelFileError(f"{size} bytes in the pieces of a unigram model; at most {limits.MAX_UNIGRAM_BYTES}.")
    normal = [pieces.scores[id] for id in pieces.of(Kind.NORMAL)]
    low, high = min(normal, default=0.0), max(normal, default=0.0)
    other = {id: (f"{_NO_TEXT}{id}", low) for id in pieces.of(Kind.CONTROL, Kind.UNKNOWN, Kind.UNUSED)}
    other |= {id: (pieces.names[id], low) for id in pieces.of(Kind.BYTE)}
    for id in pieces.of(Kind.USER):
        name = pieces.names[id].replace(" ", SPACE)
        other[id] = (name, len(name.encode()) * max(high, 0.0) - 0.1)
    vocab = [other.get(id, (name, pieces.scores[id])) for id, name in enumerate(pieces.names)]
    unknown = next(pieces.of(Kind.UNKNOWN), None)
    fallback = sum(1 for _ in pieces.of(Kind.BYTE)) == 256
    return Unigram(vocab, unk_id=unknown, byte_fallback=fallback)


def _unknown(pieces: Pieces) -> str | None:
    """The name of the unknown piece."""
    return next((pieces.names[id] for id in pieces.of(Kind.UNKNOWN)), None)


def check_pieces(pieces: Pieces) -> None:
    """Raises where names repeat or scores aren't numbers.

    Raises:
        ModelFileError: names the piece.
    """
    if len(set(pieces.names)) != len(pieces.names):
        name, count = Counter(pieces.names).most_common(1)[0]
        raise ModelFileError(f"the token {name[:64]!r} is listed {count} times.")
    if not all(map(math.isfinite, pieces.scores)):
        raise ModelFileError("a token's score isn't a finite number.")
