"""Documents in, tokens out: nothing lost, nothing turned into a control token, hostile rows refused."""

import bz2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from penstock.core.errors import ConfigError
from penstock.train import corpus
from penstock.train.corpus import Document, cut_passages, encode_documents, encode_plain, mark_passage, read_documents
from penstock.train.tokenizer import SPECIAL_TOKENS, train_tokenizer

PASSAGE = "The mill stood still. Nobody came. " + "Rain fell on the roof all night long. " * 30


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([PASSAGE] * 20, 280)


def test_rows_are_read_from_plain_and_packed_files(tmp_path: Path) -> None:
    row = '{"text": "A", "title": "Emma", "author": "Jane Austen"}\n{"text": "B"}\n'
    (tmp_path / "a.jsonl").write_text(row)
    (tmp_path / "b.jsonl.bz2").write_bytes(bz2.compress(row.encode()))
    expected = [Document("Emma, by Jane Austen", "A"), Document("", "B")]
    assert list(read_documents(tmp_path / "a.jsonl")) == expected
    assert list(read_documents(tmp_path / "b.jsonl.bz2")) == expected


@pytest.mark.parametrize("row", ["[1]", '{"title": "x"}', '{"text": 3}', "{", "nonsense"])
def test_rows_that_are_not_documents_are_named(tmp_path: Path, row: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + row + "\n")
    with pytest.raises(ConfigError, match=r"a\.jsonl:2"):
        list(read_documents(tmp_path / "a.jsonl"))


def test_a_row_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MAX_LINE_CHARS", 100)
    (tmp_path / "a.jsonl").write_text('{"text": "' + "x" * 100 + '"}\n')
    with pytest.raises(ConfigError, match="more than 100"):
        list(read_documents(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", b"\xff\xfe"), ("a.jsonl.bz2", b"not packed"), ("b", None)])
def test_files_that_are_not_text_are_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as text"):
        list(read_documents(tmp_path / name))


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab .\n", max_size=900), max_size=12), st.integers(0, 2**31))
def test_cutting_keeps_every_paragraph_in_order(paragraphs: list[str], seed: int) -> None:
    text = "\n\n".join(paragraphs)
    passages = list(cut_passages(text, np.random.default_rng(seed)))
    kept = [part.strip("\n") for passage in passages for part in passage.split("\n\n") if part.strip()]
    assert kept == [part.strip("\n") for part in text.split("\n\n") if part.strip()]


@given(st.integers(0, 2**31))
def test_turns_hold_the_whole_passage(seed: int) -> None:
    segments = mark_passage(PASSAGE, "Rain, by Nobody", np.random.default_rng(seed))
    spoken = [text for special, text in segments if special != "<|system|>" and text]
    assert " ".join(spoken).split() == PASSAGE.split()
    assert segments[0][0] == "<|bos|>"
    assert segments[-1][0] in ("<|eos|>", "<|end|>")


def test_some_passages_are_turns_and_some_are_plain() -> None:
    kinds = [mark_passage(PASSAGE, "", np.random.default_rng(seed))[-1][0] for seed in range(300)]
    assert 0.2 < kinds.count("<|end|>") / len(kinds) < 0.4


def test_text_never_becomes_a_control_token(tokenizer: Tokenizer) -> None:
    text = "He wrote <|eos|> and <|user|> on the wall."
    tokens, num_bytes = encode_plain([Document("", text)], tokenizer, seed=1)
    assert num_bytes == len(text.encode())
    specials = {tokenizer.token_to_id(special) for special in SPECIAL_TOKENS}
    assert [int(token) for token in tokens if int(token) in specials] == [0, 1]
    assert tokenizer.decode([int(token) for token in tokens[1:-1]], skip_special_tokens=False) == text
    tokenizer.encode_special_tokens = False
    assert tokenizer.token_to_id("<|eos|>") in tokenizer.encode(text).ids, "the control: the tokenizer alone would"


def test_encoding_depends_on_the_seed_alone(tokenizer: Tokenizer) -> None:
    documents = [Document("Rain", "\n\n".join([PASSAGE] * 12))]
    first, again = (encode_documents(documents, tokenizer, seed=3) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, encode_documents(documents, tokenizer, seed=4))
    assert encode_documents([], tokenizer, seed=3).shape == (0,)
