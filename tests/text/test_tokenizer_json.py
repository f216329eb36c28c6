import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from penstock.core import InvalidRequest, ModelFileError, limits
from penstock.text import load_tokenizer
from penstock.text.tokenizer_json import named_failures, read_tokenizer_json


def good():
    hf = Tokenizer(models.BPE({letter: id for id, letter in enumerate(["a", "b", "Ġ", "ab"])}, [("a", "b")]))
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    hf.add_special_tokens([AddedToken("<s>", normalized=False)])
    hf.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 4)])
    return json.loads(hf.to_str())


def changed(**changes):
    state = good()
    for path, value in changes.items():
        where = state
        *parents, last = path.split("__")
        for parent in parents:
            where = where[parent]
        where[last] = value
    return state


def token(id=5, content="<x>", **flags):
    return {
        "id": id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
        **flags,
    }


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def write(folder, state):
    (folder / "tokenizer.json").write_text(json.dumps(state))
    return folder


def test_a_good_one_loads(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path, good()))
    assert tokenizer.encode("ab a") == (4, 3, 2, 0)
    assert tokenizer.vocab_size == 5


NESTED = {"type": "Sequence", "pretokenizers": []}
for _ in range(200):
    NESTED = {"type": "Sequence", "pretokenizers": [NESTED]}


@pytest.mark.parametrize(
    "state",
    [
        changed(model__merges=[["a", "zz"]]),
        changed(model__merges=["a b", "b a"]),  # the library panics
        changed(model__vocab={"a": 0, "b": 1}),
        changed(model__continuing_subword_prefix="éééé"),
        changed(model__vocab={"a": -1}),
        changed(model__type="Nothing"),
        changed(model=None),
        changed(model={"type": "Unigram", "unk_id": 0, "vocab": []}),
        changed(model={"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]]}),
        changed(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        changed(normalizer={"type": "Precompiled", "precompiled_charsmap": "/////wAA"}),
        changed(pre_tokenizer=split("(a+)+$")),
        changed(pre_tokenizer=split("(")),
        changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [split("a|b" * at) for at in range(99)]}),
        changed(normalizer={"type": "Replace", "pattern": {"Regex": "(a|a)*b"}, "content": ""}),
        changed(pre_tokenizer=NESTED),
        changed(post_processor__special_tokens={}),
        changed(post_processor__special_tokens={"<s>": {"id": "<s>", "ids": [2**32 - 1], "tokens": ["<s>"]}}),
        changed(model__vocab={"a": 0, "b": 1, "Ġ": 2, "ab": limits.MAX_VOCAB}),
        changed(added_tokens=[token(at, f"<{at}>") for at in range(4, limits.MAX_ADDED_TOKENS + 6)]),
        changed(truncation={"direction": "Right", "max_length": -1, "strategy": "LongestFirst", "stride": 0}),
        changed(version="\0\x1b[31m"),
        changed(model__vocab={"b": 0}, model__merges=[], model__unk_token="<none>"),
        [],
        None,
        7,
    ],
)  # fmt: skip
def test_hostile_files_are_refused_in_one_line(tmp_path, state):
    with pytest.raises(ModelFileError, match=r"tokenizer\.json: ") as caught:
        load_tokenizer(write(tmp_path, state))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_patterns_are_checked_however_they_are_spelled(tmp_path):
    text = json.dumps(changed(pre_tokenizer=split("(a+)+$"))).replace('"Regex"', '"\\u0052egex"')
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelFileError, match="repeats something that varies"):
        load_tokenizer(tmp_path)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_TOKENIZER_BYTES", 100)
    with pytest.raises(ModelFileError, match="larger than 100 bytes"):
        load_tokenizer(write(tmp_path, good()))


def test_ids_with_holes_count(tmp_path):
    """An id beyond the number of tokens is an id: whoever compares sizes must see it."""
    state = changed(model__vocab={"a": 0, "b": 1, "Ġ": 2, "ab": 1000})
    assert load_tokenizer(write(tmp_path, state)).vocab_size == 1001


def test_what_the_tokenizer_cannot_write_is_a_bad_request(tmp_path):
    unigram = {"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0]], "byte_fallback": False}
    state = changed(model=unigram, added_tokens=[], post_processor=None, pre_tokenizer=None, decoder=None)
    tokenizer = load_tokenizer(write(tmp_path, state))
    assert tokenizer.encode("aa") == (0, 0)
    with pytest.raises(InvalidRequest, match="can't write this text"):
        tokenizer.encode("ab")


def test_failures_keep_their_kind():
    with pytest.raises(ModelFileError, match=r"^f: not a tokenizer: a b$"), named_failures(Path("f")):
        raise ValueError("a\nb")
    with pytest.raises(ModelFileError, match=r"^f: wrong hint: do$"), named_failures(Path("f")):
        raise ModelFileError("wrong", hint="do")
    with pytest.raises(KeyboardInterrupt), named_failures(Path("f")):
        raise KeyboardInterrupt


LEAVES = st.none() | st.booleans() | st.integers(-5, 2**33) | st.floats() | st.text(max_size=8)
KEYS = (
    "type",
    "vocab",
    "merges",
    "id",
    "content",
    "Regex",
    "String",
    "pattern",
    "special",
    "unk_token",
    "dropout",
    "x",
)


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_a_tokenizer_or_one_line(tmp_path, data):
    state = good()
    for _ in range(data.draw(st.integers(1, 3))):
        where = state
        while True:
            inner = list(where.values() if isinstance(where, dict) else where)
            deeper = [each for each in inner if isinstance(each, (dict, list)) and each]
            if not deeper or data.draw(st.booleans()):
                break
            where = data.draw(st.sampled_from(deeper))
        value = data.draw(LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(st.sampled_from(KEYS), LEAVES))
        if isinstance(where, dict):
            where[data.draw(st.sampled_from([*where, *KEYS]))] = value
        elif where:
            where[data.draw(st.integers(0, len(where) - 1))] = value
    try:
        tokenizer = load_tokenizer(write(tmp_path, state))
        tokenizer.decode(tokenizer.encode("ab <s> é\n"))
    except ModelFileError as error:
        assert "\n" not in str(error)
    except InvalidRequest:
        pass


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_refused(data):
    with pytest.raises(ModelFileError):
        read_tokenizer_json(Path("f"), data, {})
