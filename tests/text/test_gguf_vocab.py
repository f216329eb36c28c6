from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core import ModelFileError
from penstock.text import load_gguf_tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
LETTERS = ["a", "b", "Ġ", "ab", "<|im_end|>"]


def byte_level_metadata(**changes):
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": LETTERS,
        "tokenizer.ggml.token_type": [1, 1, 1, 1, 3],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 4,
    }
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


def read_pairs(name):
    base = DATA / f"ggml-vocab-{name}.gguf"
    texts = base.with_suffix(".gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = base.with_suffix(".gguf.out").read_text().split("\n")
    return list(zip(texts, ([int(id) for id in line.split()] for line in lines), strict=False))


def test_published_pairs(real):
    name, tokenizer = real
    pairs = read_pairs(name)
    assert len(pairs) == 47
    wrong = [text for text, ids in pairs if list(tokenizer.encode(text, add_special_tokens=False)) != ids]
    assert wrong == []
    assert any(list(tokenizer.encode(text + "!", add_special_tokens=False)) != ids for text, ids in pairs)


def naive_spm(text, metadata):
    """SentencePiece's rule, word for word: merge the neighbours whose piece scores best, leftmost first."""
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    ids = {token: id for id, token in enumerate(tokens) if metadata["tokenizer.ggml.token_type"][id] == 1}
    parts = list(("▁" + text.replace(" ", "▁")) if text else "")
    while True:
        best = max(
            ((scores[ids[a + b]], -at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in ids),
            default=None,
        )
        if best is None:
            break
        at = -best[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [id for part in parts for id in ([ids[part]] if part in ids else [3 + byte for byte in part.encode()])]


@given(st.text(alphabet="helo wrd<s>é", max_size=24))
@settings(max_examples=150, deadline=None)
def test_spm_equals_the_rule(spm, spm_metadata, text):
    assert list(spm.encode(text, add_special_tokens=False)) == naive_spm(text, spm_metadata)


def test_spm_flags(spm_metadata):
    assert load_gguf_tokenizer(spm_metadata).encode("hello")[0] == 1
    plain = load_gguf_tokenizer(spm_metadata | {"tokenizer.ggml.add_bos_token": False})
    assert plain.encode("hello") == plain.encode("hello", add_special_tokens=False)
    bare = load_gguf_tokenizer(spm_metadata | {"tokenizer.ggml.add_space_prefix": False})
    assert bare.encode("h", add_special_tokens=False) != plain.encode("h", add_special_tokens=False)
    assert bare.decode(bare.encode(" h")) == " h"
    both = load_gguf_tokenizer(spm_metadata | {"tokenizer.ggml.add_eos_token": True})
    assert both.encode("hello")[-1] == 2


def test_byte_level_reads_lists_and_arrays():
    tokenizer = load_gguf_tokenizer(byte_level_metadata(token_type=np.array([1] * 4 + [3]), eos_token_id=np.uint32(4)))
    assert tokenizer.encode("ab a") == (3, 2, 0)
    assert tokenizer.eos_token_ids == (4,)
    assert 4 not in tokenizer.encode("ab<|im_end|>")


def test_turn_ends_are_end_tokens():
    metadata = byte_level_metadata(
        tokens=["a", "b", "ab", "</s>", "<|im_end|>"], token_type=[1, 1, 1, 3, 3], eos_token_id=3
    )
    assert load_gguf_tokenizer(metadata).eos_token_ids == (3, 4)


def test_template_in_the_metadata():
    metadata = byte_level_metadata() | {"tokenizer.chat_template": "{{ messages[0].content }}{{ eos_token }}"}
    messages = [{"role": "user", "content": "ab"}]
    assert load_gguf_tokenizer(metadata).encode_chat(messages) == (3, 4)
    tool = {"type": "function", "function": {"name": "f"}}
    two = metadata | {"tokenizer.chat_template.tool_use": "{{ messages[0].content * 2 }}"}
    assert load_gguf_tokenizer(two).encode_chat(messages, tools=[tool]) == (3, 3)
    assert load_gguf_tokenizer(two).encode_chat(messages) == (3, 4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "rwkv"}, "model is 'rwkv'.*hint"),
        ({"model": None}, "model is 'None'"),
        ({"pre": "never-heard-of"}, "pre is 'never-heard-of'.*hint.*llama-bpe"),
        ({"pre": 7}, "pre is '7'"),
        ({"tokens": []}, "empty or missing"),
        ({"tokens": "abc"}, "not a list"),
        ({"tokens": [*LETTERS[:4], "a" * 1000]}, "longer than"),
        ({"token_type": [1]}, "1 entries in tokenizer.ggml.token_type for 5"),
        ({"token_type": [1] * 6}, "at most 5"),
        ({"token_type": ["x"] * 5}, "numbers"),
        ({"merges": ["a zz"]}, "does not fit"),
        ({"merges": ["ab"]}, "does not fit"),
        ({"merges": [3]}, "does not fit"),
        ({"eos_token_id": 5}, "eos_token_id is 5"),
        ({"bos_token_id": -1}, "bos_token_id is -1"),
        ({"bos_token_id": True}, "bos_token_id is True"),
    ],
)
def test_bad_metadata_is_refused(changes, reason):
    with pytest.raises(ModelFileError, match=reason):
        load_gguf_tokenizer(byte_level_metadata(**changes))
