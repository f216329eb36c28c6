"""Text files turned into token arrays: read documents, cut them into passages, mark and encode these.

Knows nothing about networks or optimizers. Invariant: an array depends on the text, the tokenizer and the seed alone,
and text never becomes a special token, whatever it contains.
"""

from __future__ import annotations

import bz2
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from penstock.core.errors import ConfigError
from penstock.train.tokenizer import ASSISTANT, BOS, END, EOS, SPECIAL_TOKENS, SYSTEM, USER

MAX_LINE_CHARS = 64 * 2**20
MIN_PASSAGE_CHARS = 600
MAX_PASSAGE_CHARS = 2400
MAX_OPENING_CHARS = 400
MIN_CONTINUATION_CHARS = 40
TURN_SHARE = 0.3  # of passages are written as an opening (user) and its continuation (assistant)
TITLE_SHARE = 0.5  # of those name their source in a system turn
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]?\s+")

Segment = tuple[str, str]  # a special token and the text after it


@dataclass(frozen=True, slots=True)
class Document:
    """One text and what it is called, for example "Sister Carrie, by Theodore Dreiser"."""

    label: str
    text: str


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a `.jsonl` or `.jsonl.bz2` file whose rows have `text` and maybe `title` and `author`.

    Raises:
        ConfigError: the file cannot be read, or a row is too long, is not a JSON object, or has no text.
    """
    try:
        with _open_text(path) as stream:
            number = 0
            while line := stream.readline(MAX_LINE_CHARS + 1):
                number += 1
                yield _document(line, f"{path}:{number}")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text: {error}", hint="give .jsonl or .jsonl.bz2 files") from error


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".bz2":
        return bz2.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _document(line: str, place: str) -> Document:
    if len(line) > MAX_LINE_CHARS:
        raise ConfigError(f"{place} has more than {MAX_LINE_CHARS} characters", hint="split the row")
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{place} is not JSON: {error}", hint="one JSON object a line") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise ConfigError(f"{place} has no string field 'text'", hint='rows look like {"title": …, "text": …}')
    title, author = row.get("title"), row.get("author")
    label = f"{title}, by {author}" if title and author else str(title or "")
    return Document(label, row["text"])


def cut_passages(text: str, rng: np.random.Generator) -> Iterator[str]:
    """Yield `text` in order as passages of whole paragraphs, each aiming at a random length in characters."""
    parts: list[str] = []
    size, goal = 0, int(rng.integers(MIN_PASSAGE_CHARS, MAX_PASSAGE_CHARS))
    for paragraph in text.split("\n\n"):
        if not paragraph.strip():
            continue
        parts.append(paragraph.strip("\n"))
        size += len(paragraph) + 2
        if size >= goal:
            yield "\n\n".join(parts)
            parts, size, goal = [], 0, int(rng.integers(MIN_PASSAGE_CHARS, MAX_PASSAGE_CHARS))
    if parts:
        yield "\n\n".join(parts)


def plain_passage(passage: str) -> list[Segment]:
    """Return `passage` between BOS and EOS."""
    return [(BOS, passage), (EOS, "")]


def mark_passage(passage: str, label: str, rng: np.random.Generator) -> list[Segment]:
    """Return `passage` either plain or as two turns: its opening by the user, its continuation by the assistant."""
    cut = _opening_end(passage, rng) if rng.random() < TURN_SHARE else 0
    if cut == 0:
        return plain_passage(passage)
    titled = bool(label) and rng.random() < TITLE_SHARE
    system = [(SYSTEM, label), (END, "")] if titled else []
    turns = [(USER, passage[:cut].rstrip()), (END, ""), (ASSISTANT, passage[cut:].lstrip()), (END, "")]
    return [(BOS, ""), *system, *turns]


def _opening_end(passage: str, rng: np.random.Generator) -> int:
    """Return where the opening ends: after a random one of the first sentences, or 0 when there is no such place."""
    ends = [match.end() for match in _SENTENCE_END.finditer(passage, 0, min(MAX_OPENING_CHARS, len(passage)))]
    ends = [end for end in ends if len(passage) - end > MIN_CONTINUATION_CHARS]
    return ends[int(rng.integers(len(ends)))] if ends else 0


def encode_segments(segments: list[Segment], tokenizer: Tokenizer) -> npt.NDArray[np.uint16]:
    """Return the ids of `segments`; what looks like a special token inside the text stays text.  # [N] u16."""
    vocabulary = {special: _special_id(special, tokenizer) for special in SPECIAL_TOKENS}
    tokenizer.encode_special_tokens = True
    encodings = tokenizer.encode_batch_fast([text for _, text in segments], add_special_tokens=False)
    ids: list[int] = []
    for (special, _), encoding in zip(segments, encodings, strict=True):
        ids.append(vocabulary[special])
        ids.extend(encoding.ids)
    return np.asarray(ids, dtype=np.uint16)


def _special_id(special: str, tokenizer: Tokenizer) -> int:
    found = tokenizer.token_to_id(special)
    if found is None:
        raise ConfigError(f"the tokenizer has no {special}", hint="let the run learn its own tokenizer")
    return found


def encode_documents(documents: Iterable[Document], tokenizer: Tokenizer, seed: int) -> npt.NDArray[np.uint16]:
    """Return the tokens of every passage of `documents`, in order, some of them in turns.  # [N] u16."""
    rng = np.random.default_rng(seed)
    arrays = [np.zeros(0, dtype=np.uint16)]
    for document in documents:
        marked = [mark_passage(passage, document.label, rng) for passage in cut_passages(document.text, rng)]
        arrays.append(encode_segments([segment for segments in marked for segment in segments], tokenizer))
    return np.concatenate(arrays)


def encode_plain(documents: Iterable[Document], tokenizer: Tokenizer, seed: int) -> tuple[npt.NDArray[np.uint16], int]:
    """Return the tokens of every passage, all plain, and how many UTF-8 bytes of text they stand for.  # [N] u16."""
    rng = np.random.default_rng(seed)
    arrays, num_bytes = [np.zeros(0, dtype=np.uint16)], 0
    for document in documents:
        passages = list(cut_passages(document.text, rng))
        num_bytes += sum(len(passage.encode("utf-8")) for passage in passages)
        arrays.append(encode_segments([s for passage in passages for s in plain_passage(passage)], tokenizer))
    return np.concatenate(arrays), num_bytes
