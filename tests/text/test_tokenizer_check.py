import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from penstock.core import ModelFileError, limits
from penstock.text.tokenizer_check import examine

PIECES = {"a": 0, "b": 1, "ab": 2, "é": 3, "\n": 7}
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def state(**model):
    whole = {"type": "BPE", "continuing_subword_prefix": None, "vocab": PIECES, "merges": [["a", "b"]], **model}
    return {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "model": whole}


def written(whole, **layout):
    return json.dumps(whole, **layout).encode()


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"ensure_ascii": False}, {"separators": (",", ":")}])
def test_facts_of_a_sound_file_however_it_is_laid_out(layout):
    whole = state()
    whole["added_tokens"] = [{"id": 8, "content": "<x>", **ADDED}, {"id": 0, "content": "a", **ADDED}]
    data = written(whole, **layout)
    facts = examine(data)
    assert facts.size == 8 and json.loads(data[slice(*facts.added)]) == whole["added_tokens"]
    skeleton = json.loads(facts.skeleton)
    assert skeleton["model"] == {**whole["model"], "vocab": {}, "merges": []}
    assert {**skeleton, "model": None} == {**whole, "model": None}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("merge", [["a", "z"], "z b", ["b", "a"], "ab", "a  b", ["a"], ["a", 1], 3])
def test_merges_are_of_known_pieces(merge, first):
    whole = state(merges=[merge])
    if first:
        whole["model"]["vocab"] = whole["model"].pop("vocab")
    with pytest.raises(ModelFileError):
        examine(written(whole))
    examine(written(state(merges=["a b", "#version: 1"])))


@pytest.mark.parametrize("late", [False, True])
def test_second_pieces_lose_their_prefix(late):
    whole = state(continuing_subword_prefix="##", vocab={"a": 0, "##b": 1, "ab": 2}, merges=[["a", "##b"]])
    if late:
        whole["model"]["continuing_subword_prefix"] = whole["model"].pop("continuing_subword_prefix")
    assert examine(written(whole)).size == 3
    whole["model"]["vocab"]["b"] = 3
    whole["model"]["merges"] = [["a", "b"]]
    with pytest.raises(ModelFileError, match="shorter than continuing_subword_prefix"):
        examine(written(whole))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("MAX_PIECES", 4, "more than 4 tokens"),
        ("MAX_VOCAB", 7, "ids up to 7"),
        ("MAX_MERGES", 0, "more than 0 merges"),
        ("MAX_PIECE_CHARS", 1, "a token of 2 characters"),
        ("MAX_TOKENIZER_STEPS", 2, "beside vocabulary and tokens"),
        ("MAX_TOKENIZER_REST_BYTES", 10, "more than 10 bytes"),
    ],
)
def test_sizes_are_bounded(monkeypatch, name, value, reason):
    examine(written(state()))
    monkeypatch.setattr(limits, name, value)
    with pytest.raises(ModelFileError, match=reason):
        examine(written(state()))


def test_a_key_that_occurs_twice_is_refused():
    data = written(state())
    for twice in (
        data.replace(b'"type"', b'"vocab": {}, "type"'),
        data.replace(b'"type"', b'"voc\\u0061b": {}, "type"'),
    ):
        with pytest.raises(ModelFileError, match="occurs twice"):
            examine(twice)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_passes_is_not_refused_for_its_vocabulary(data):
    """The library is the oracle: it refuses nothing that passed, unless it refuses the skeleton as well."""
    whole = written(state())
    at = data.draw(st.integers(0, len(whole) - 1))
    spoiled = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 3)) :]
    try:
        skeleton = examine(spoiled).skeleton
    except ModelFileError:
        return
    if _opens(skeleton):
        assert _opens(spoiled)


def _opens(data):
    try:
        Tokenizer.from_buffer(data)
    except Exception:
        return False
    return True


@pytest.mark.parametrize(
    "model",
    [
        {"type": "WordLevel", "vocab": {"b": 0}, "unk_token": "<none>"},
        {"type": "BPE", "vocab": {"b": 0}, "merges": [], "unk_token": "<none>"},
        {"type": "Unigram", "vocab": [["b", 0.0]], "unk_id": None},
        {"type": "Unigram", "vocab": [["b", 0.0]]},
    ],
)
def test_a_vocabulary_that_can_not_spell_the_probe_is_refused_before_it_is_built(model):
    with pytest.raises(ModelFileError, match="neither the letter a nor an unknown token"):
        examine(json.dumps({"model": model}).encode())


@pytest.mark.parametrize(
    "model",
    [
        {"type": "WordLevel", "vocab": {"b": 0, "<unk>": 1}, "unk_token": "<unk>"},
        {"type": "BPE", "vocab": {"b": 0}, "merges": [], "unk_token": None},
        {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "<none>"},
        {"type": "Unigram", "vocab": [["b", 0.0]], "unk_id": 0},
    ],
)
def test_one_that_can_is_not(model):
    examine(json.dumps({"model": model}).encode())
