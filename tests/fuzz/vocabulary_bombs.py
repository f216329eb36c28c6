"""Vocabularies as large as published ones, and larger, spoiled where it is found last: at their end, or after them.

Each is well-formed as far as it goes, and would be refused by the library that reads it only after everything was
built: hundreds of megabytes for a file of twenty.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

from tests.fuzz.seeds import ARRAY, TOKENIZER, GgufDraft, field_bytes, gguf, tekken

from penstock.core import ModelFileError
from penstock.model.gguf_file import read_gguf
from penstock.text import load_gguf_tokenizer, load_tokenizer

Files = dict[str, bytes]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PIECES, MERGES = 262_144, 515_000  # as the largest published vocabularies have


def open_vocabulary(path: Path) -> None:
    """Reads the tokenizer of a model, and nothing else of it.

    Raises:
        ModelFileError: something is wrong with it.
    """
    if path.is_dir():
        load_tokenizer(path)
        return
    try:
        load_gguf_tokenizer(read_gguf(path).metadata)
    except ModelFileError as error:  # made from metadata alone: it knows no file
        raise ModelFileError(f"{path}: {error}") from None


def words(count: int, length: int = 4) -> list[str]:
    """Letters, and then that many words of them."""
    return [*LETTERS, *map("".join, islice(product(LETTERS, repeat=length), count - len(LETTERS)))]


def pairs(names: list[str], count: int) -> Iterator[list[str]]:
    """That many merges: each word of four letters out of its two halves, over and over."""
    halves = [[name[:2], name[2:]] for name in names if len(name) == 4]
    return (halves[at % len(halves)] for at in range(count))


def bpe(**changes: Any) -> dict[str, Any]:
    """A sound byte-level vocabulary of the largest published size, with changes to its model."""
    names = [*words(1400, 2), *words(PIECES - 1400)[len(LETTERS) :]]
    model = {**TOKENIZER["model"], "vocab": {name: id for id, name in enumerate(names)}}
    model["merges"] = list(pairs(names, MERGES))
    return {**TOKENIZER, "added_tokens": [], "model": {**model, **changes}}


def written(state: dict[str, Any], **others: bytes) -> Files:
    """The folder of a tokenizer.json, and other files with their suffix left out."""
    return {"tokenizer.json": json.dumps(state).encode(), **{f"{name}.jinja": held for name, held in others.items()}}


def small(**changes: Any) -> Files:
    """A small vocabulary with changes outside of its model."""
    return written({**TOKENIZER, **changes})


def merged_wrongly(first: bool = False, texts: bool = False) -> Files:
    """A vocabulary whose last merge is of no pieces; with its merges before its pieces; written as texts."""
    state = bpe()
    model = state["model"]
    model["merges"].append(["h", "~"])
    if texts:
        model["merges"] = [" ".join(pair) for pair in model["merges"]]
    if first:
        model["vocab"] = model.pop("vocab")
    return written(state)


def unigram(names: list[str], **changes: Any) -> Files:
    """A unigram vocabulary."""
    model = {"type": "Unigram", "unk_id": 0, "vocab": [[name, -1.5] for name in names], "byte_fallback": False}
    return written({**TOKENIZER, "added_tokens": [], "post_processor": None, "model": {**model, **changes}})


def added(count: int, length: int) -> Files:
    """Many added tokens."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokens = [{"id": 1000 + at, "content": f"{at:0{length}}", **flags} for at in range(count)]
    return small(added_tokens=tokens)


def ranks(count: int, last: bytes) -> Files:
    """A tekken.json whose last token is this one."""
    tokens = [*(bytes([byte]) for byte in range(256)), *(f"~{at:x}".encode() for at in range(count - 257)), last]
    whole = tekken()
    special = whole["config"]["default_num_special_tokens"]
    whole["config"]["default_vocab_size"] = count + special
    whole["vocab"] = [
        {"rank": rank, "token_bytes": b64encode(token).decode(), "token_str": None} for rank, token in enumerate(tokens)
    ]
    return {"tekken.json": json.dumps(whole).encode()}


def sentencepiece(names: list[str]) -> Files:
    """A SentencePiece BPE model of these pieces."""
    pieces = b"".join(field_bytes(1, field_bytes(1, name.encode())) for name in names)
    return {"tokenizer.model": pieces + field_bytes(2, b"\x18\x02")}


def metadata(**changes: list[bytes]) -> Files:
    """A GGUF file with changes to its tokenizer's lists."""
    draft: GgufDraft = gguf("gpt2")
    for name, held in changes.items():
        key = b"tokenizer.ggml." + name.encode()
        draft.keys = [each for each in draft.keys if each[0] != key]
        draft.keys.append((key, ARRAY, held))
    draft.keys = [
        each for each in draft.keys if each[0] not in (b"tokenizer.ggml.scores", b"tokenizer.ggml.token_type")
    ]
    return {"model.gguf": draft.written()}


def merged_wrongly_in_gguf() -> Files:
    """A GGUF vocabulary whose last merge is of no pieces."""
    names = [*words(1400, 2), *words(PIECES - 1400)[len(LETTERS) :]]
    merges = [" ".join(pair) for pair in pairs(names, 230_000)]
    lines = [*merges, "h ~"]
    return metadata(tokens=[name.encode() for name in names], merges=[line.encode() for line in lines])


VOCABULARY_BOMBS: dict[str, Callable[[], Files]] = {
    "merges: a wrong one at the end": merged_wrongly,
    "merges: before the pieces": lambda: merged_wrongly(first=True),
    "merges: written as texts": lambda: merged_wrongly(texts=True),
    "merges: many": lambda: written(bpe(merges=[["a", "b"]] * 1_100_000)),
    "merges: not text": lambda: {
        "tokenizer.json": merged_wrongly()["tokenizer.json"].replace(b'["h", "~"]', b'["h", "\\ud800"]')
    },
    "pieces: many": lambda: written(bpe(vocab={name: id for id, name in enumerate(words(600_000))}, merges=[])),
    "pieces: an id at the end": lambda: written(bpe(vocab={**bpe()["model"]["vocab"], "~": 2**31}, merges=[])),
    "pieces: a number that is none": lambda: {
        "tokenizer.json": written(bpe(merges=[]))["tokenizer.json"].replace(b'}, "merges"', b', "~": 1.5}, "merges"')
    },
    "pieces: a bracket that is missing": lambda: {"tokenizer.json": written(bpe())["tokenizer.json"][:-1]},
    "pieces: after them an unknown step": lambda: written({**bpe(), "decoder": {"type": "Nothing"}}),
    "pieces: after them ids that are none": lambda: written(
        {
            **bpe(),
            "post_processor": {"type": "BertProcessing", "sep": ["a", 2**31], "cls": ["b", 1]},
        }
    ),
    "pieces: a template that is none": lambda: written(bpe(), chat_template=b"{% if %}"),
    "unigram: unknown piece": lambda: unigram(words(250_000), unk_id=250_000),
    "unigram: long pieces": lambda: unigram([f"{at:0500}" for at in range(20_000)]),
    "unigram: a score that is none": lambda: {
        "tokenizer.json": unigram([*words(250_000), "~~"])["tokenizer.json"].replace(b'["~~", -1.5]', b'["~~", 1e999]')
    },
    "added tokens: long": lambda: added(10_000, 500),
    "added tokens: many": lambda: added(65_000, 8),
    "steps: many": lambda: small(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 60_000}),
    "steps: many replacements": lambda: small(
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "b"}] * 30_000,
        }
    ),
    "steps: many ids": lambda: small(
        post_processor={
            "type": "TemplateProcessing", "single": [], "pair": [],
            "special_tokens": {"a": {"id": "a", "ids": [0] * 1_000_000, "tokens": ["a"]}},
        }
    ),
    "steps: a long text": lambda: small(normalizer={"type": "Prepend", "prepend": "é" * 5_000_000}),
    "steps: a long key": lambda: small(**{"x" * 10_000_000: 1}),
    "tekken: a token twice": lambda: ranks(131_072, b"a"),
    "tekken: many": lambda: ranks(300_000, b"~z"),
    "tekken: rank at the end": lambda: {
        "tekken.json": ranks(131_072, b"~z")["tekken.json"].replace(b'"rank": 131071', b'"rank": 131072')
    },
    "tokenizer.model: a piece twice": lambda: sentencepiece([*words(279_000), "a"]),
    "tokenizer.model: scores alike": lambda: sentencepiece([*words(1400, 2), *words(278_000)[len(LETTERS) :]]),
    "tokenizer.model: many ways to merge": lambda: sentencepiece(
        ["".join(each) for length in range(1, 18) for each in product("ab", repeat=length)]
    ),
    "gguf: a wrong merge at the end": merged_wrongly_in_gguf,
    "tokenizer.model: many pieces": lambda: sentencepiece(words(410_000)),
    "gguf: a token twice": lambda: metadata(tokens=[name.encode() for name in (*words(400_000), "a")]),
}  # fmt: skip
