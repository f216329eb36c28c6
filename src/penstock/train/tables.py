"""What a run keeps of its text: the tokenizer and one token array for each source, made once and reused.

Knows nothing about networks. Invariant: a file is complete or absent, so an interrupted preparation continues.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from penstock.train.corpus import Document, encode_documents, encode_plain, read_documents
from penstock.train.recipe import HELD_OUT_PHASE, Recipe, TextSource, find_files
from penstock.train.tokenizer import train_tokenizer


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Tokens of held-out text and how many UTF-8 bytes of text they stand for."""

    name: str
    tokens: npt.NDArray[np.uint16]  # [N] u16
    num_bytes: int


def learned_documents(source: TextSource, path: Path) -> Iterator[Document]:
    """Yield the documents of one file that are trained on."""
    for index, document in enumerate(read_documents(path)):
        if not source.hold_out_every or index % source.hold_out_every != HELD_OUT_PHASE:
            yield document


def held_out_documents(source: TextSource, corpus: Path) -> Iterator[Document]:
    """Yield the documents that a source holds out."""
    if source.held_out:
        yield from chain.from_iterable(read_documents(path) for path in find_files(corpus, source.held_out))
        return
    for path in find_files(corpus, source.files):
        for index, document in enumerate(read_documents(path)):
            if index % source.hold_out_every == HELD_OUT_PHASE:
                yield document


class Tables:
    """The tokenizer and token arrays of one recipe over one corpus, kept in a folder."""

    def __init__(self, recipe: Recipe, corpus: Path, folder: Path, say: Callable[[str], None]) -> None:
        """Use `folder`, which is made if it is absent; `say` hears what is being prepared."""
        self._recipe, self._corpus, self._folder, self._say = recipe, corpus, folder, say
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer()

    def _tokenizer(self) -> Tokenizer:
        path = self._folder / "tokenizer.json"
        if not path.exists():
            self._say("learning the tokenizer")
            partial = path.with_suffix(".partial")
            train_tokenizer(self._sample(), self._recipe.shape.vocab_size).save(str(partial))
            partial.replace(path)
        return Tokenizer.from_file(str(path))

    def _sample(self) -> Iterator[str]:
        """Yield a slice of every document that is trained on, from a third into it."""
        for source in self._recipe.text:
            for path in find_files(self._corpus, source.files):
                for document in learned_documents(source, path):
                    start = len(document.text) // 3
                    yield document.text[start : start + self._recipe.sample_chars]

    def learned(self, source: TextSource) -> tuple[Path, ...]:
        """Return the token arrays of a source, one `.npy` a text file, making those that are absent."""
        arrays: list[Path] = []
        for index, path in enumerate(find_files(self._corpus, source.files)):
            target = self._folder / f"{source.name}_{index:03d}.npy"
            if not target.exists():
                self._say(f"encoding {path.name}")
                _write(target, encode_documents(learned_documents(source, path), self.tokenizer, self._recipe.seed))
            arrays.append(target)
        return tuple(arrays)

    def held_out(self, source: TextSource) -> HeldOut:
        """Return the held-out tokens of a source, making them if they are absent."""
        target, facts = self._folder / f"{source.name}_held_out.npy", self._folder / f"{source.name}_held_out.json"
        if not facts.exists():
            documents = held_out_documents(source, self._corpus)
            tokens, num_bytes = encode_plain(documents, self.tokenizer, self._recipe.seed)
            _write(target, tokens)
            facts.write_text(json.dumps({"num_bytes": num_bytes}), encoding="utf-8")
        num_bytes = int(json.loads(facts.read_text(encoding="utf-8"))["num_bytes"])
        return HeldOut(source.name, np.load(target, allow_pickle=False), num_bytes)


def _write(target: Path, tokens: npt.NDArray[np.uint16]) -> None:
    """Write an array so that `target` is whole or absent."""
    partial = target.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.save(stream, tokens, allow_pickle=False)
    partial.replace(target)
