from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text.conftest import read_vocab
from tests.text.test_spm import SETTINGS, train
from tests.text.torture import TORTURE, real_file, real_texts

from penstock.core import ModelFileError
from penstock.text import load_gguf_tokenizer
from penstock.text.pieces import byte_alphabet
from penstock.text.sentencepiece_model import read_spm_model
from penstock.text.spm import Kind

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


def test_published_pairs(real, record_property):
    name, tokenizer = real
    pairs = read_pairs(name)
    assert len(pairs) == 47
    wrong = [text for text, ids in pairs if list(tokenizer.encode(text, add_special_tokens=False)) != ids]
    record_property("pairs", f"{len(pairs) - len(wrong)} of {len(pairs)}")  # docs/models.md shows it
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


def test_byte_level_equals_the_library_built_on_its_own(tmp_path_factory):
    """GPT-2's own cut is part of the library; the vocabulary is the file's."""
    from tokenizers import Tokenizer, models
    from tokenizers.pre_tokenizers import ByteLevel

    metadata = read_vocab("gpt-2", tmp_path_factory.mktemp("vocab"))
    ours = load_gguf_tokenizer(metadata)
    vocab = {name: id for id, name in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(line.split(" ")) for line in metadata["tokenizer.ggml.merges"]]
    theirs = Tokenizer(models.BPE(vocab, merges))
    theirs.pre_tokenizer = ByteLevel(add_prefix_space=False)

    @given(TORTURE)
    @settings(max_examples=300, deadline=None)
    def check(text):
        ids = ours.encode(text, add_special_tokens=False)
        assert list(ids) == theirs.encode(text).ids
        assert ours.decode(ids, skip_special_tokens=False) == text

    check()
    for text in real_texts(5000):
        assert list(ours.encode(text, add_special_tokens=False)) == theirs.encode(text).ids
    theirs.pre_tokenizer = ByteLevel(add_prefix_space=True)
    assert theirs.encode("a").ids != list(ours.encode("a", add_special_tokens=False))  # the control


def check_against_library(ours, theirs, num_texts):
    """Ids and text are those of the SentencePiece library, for texts of every kind."""

    @given(TORTURE)
    @settings(max_examples=num_texts, deadline=None)
    def check(text):
        ids = list(ours.encode(text, add_special_tokens=False))
        assert ids == theirs.encode(text)
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)

    check()


def test_spm_equals_the_sentencepiece_library(tmp_path_factory):
    """The GGUF vocabulary and the published model file are the same one."""
    import sentencepiece

    ours = load_gguf_tokenizer(read_vocab("llama-spm", tmp_path_factory.mktemp("vocab")))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(real_file("llama2_sentencepiece.model")))

    check_against_library(ours, theirs, 300)


def byte_names(words):
    """A small byte-level vocabulary: all bytes, then words with the merges that make them."""
    letters = {byte: char for char, byte in byte_alphabet().items()}
    names = [letters[byte] for byte in range(256)]
    merges = []
    for word in words:
        parts = [letters[byte] for byte in word.encode()]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts[:2] = ["".join(parts[:2])]
            names.append(parts[0])
    return list(dict.fromkeys(names)), list(dict.fromkeys(merges))


@pytest.mark.parametrize("kind", ["qwen2", "qwen35"])
def test_qwen_equals_transformers(kind):
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

    names, merges = byte_names(["the", " the", " king", "é", "你好", "12", "\n\n", "  "])
    ours = load_gguf_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": kind,
            "tokenizer.ggml.tokens": names,
            "tokenizer.ggml.merges": merges,
        }
    )
    made = {"qwen2": Qwen2Tokenizer, "qwen35": Qwen3_5Tokenizer}[kind]
    pairs = [tuple(line.split(" ")) for line in merges]
    theirs = made(vocab={name: id for id, name in enumerate(names)}, merges=pairs)

    @given(TORTURE)
    @settings(max_examples=200, deadline=None)
    def check(text):
        assert list(ours.encode(text)) == theirs.encode(text.replace("<unk>", ""), add_special_tokens=False) or (
            "<unk>" in text
        )

    check()


def test_unigram_equals_the_sentencepiece_library():
    import sentencepiece

    data = train("unigram", normalization_rule_name="nmt_nfkc")
    model = read_spm_model(data)
    metadata = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": model.pieces.names,
        "tokenizer.ggml.token_type": model.pieces.kinds,
        "tokenizer.ggml.scores": model.pieces.scores,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
        "tokenizer.ggml.precompiled_charsmap": list(model.charsmap),
    }
    ours, theirs = load_gguf_tokenizer(metadata), sentencepiece.SentencePieceProcessor(model_proto=data)

    @given(TORTURE)
    @settings(max_examples=150, deadline=None)
    def check(text):
        assert list(ours.encode(text, add_special_tokens=False)) == theirs.encode(text)

    check()
    assert ours.encode("the king")[-1] == 2  # an end token by default
    bare = load_gguf_tokenizer(metadata | {"tokenizer.ggml.remove_extra_whitespaces": False})
    assert bare.encode("a  b") != ours.encode("a  b")  # the control


def test_what_a_silent_file_means():
    metadata = byte_level_metadata(pre="llama-bpe", bos_token_id=4)
    assert load_gguf_tokenizer(metadata).encode("ab") == (4, 3)
    assert load_gguf_tokenizer(metadata | {"tokenizer.ggml.add_bos_token": False}).encode("ab") == (3,)
    assert load_gguf_tokenizer(metadata | {"tokenizer.ggml.pre": "qwen2"}).encode("ab") == (3,)
    names = load_gguf_tokenizer({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["?", "<", ">", "▁", "a"]})
    assert names.encode("a") == (1, 3, 4)
    assert names.eos_token_ids == (2,)


def test_turn_tokens_that_a_file_forgot_to_mark_are_control_tokens():
    metadata = byte_level_metadata(
        tokens=["a", "b", "ab", "<|turn|>", "ba"], token_type=[1, 1, 1, 4, 4], eos_token_id=3
    )
    tokenizer = load_gguf_tokenizer(metadata)
    assert 3 not in tokenizer.encode("ab")
    assert tokenizer.encode("<|turn|>ab", allow_special=True) == (3, 2)
    assert tokenizer.encode("ba") == (4,)  # the control: an ordinary token of users is text


def test_empty_names_are_named():
    tokenizer = load_gguf_tokenizer(byte_level_metadata(tokens=["a", "b", "", "ab", "<|im_end|>"]))
    assert tokenizer.token_text(2) == "[EMPTY_2]"
    with pytest.raises(ModelFileError, match="'a' is listed 2 times"):
        load_gguf_tokenizer(byte_level_metadata(tokens=["a", "b", "a", "ab", "<|im_end|>"]))


def test_phi3_turn_tokens_swallow_white_space(spm_metadata):
    marked = {**spm_metadata, "tokenizer.ggml.tokens": [*spm_metadata["tokenizer.ggml.tokens"], "<|user|>"]}
    marked["tokenizer.ggml.token_type"] = [*spm_metadata["tokenizer.ggml.token_type"], 3]
    marked["tokenizer.ggml.scores"] = [*spm_metadata["tokenizer.ggml.scores"], 0.0]

    def ids(text, **changes):
        return load_gguf_tokenizer(marked | changes).encode(text, allow_special=True)

    assert ids("<|user|>\nh") != ids("<|user|>h")
    for changes in ({"general.name": "Phi 3 mini"}, {"general.name": "Phi-3.5"}, {"general.architecture": "phi3"}):
        assert ids("<|user|>\nh", **changes) == ids("<|user|>h")


LISTS = st.lists(st.text(max_size=3) | st.integers(-2, 9) | st.floats(), max_size=6)
METADATA_VALUES = st.none() | st.integers(-3, 10) | st.text(max_size=4) | LISTS
METADATA_KEYS = ("model", "pre", "tokens", "token_type", "scores", "merges", "bos_token_id", "precompiled_charsmap")


@given(
    st.sampled_from(["llama", "gpt2", "bert", "t5"]),
    st.dictionaries(st.sampled_from(METADATA_KEYS), METADATA_VALUES, max_size=3),
)
@settings(max_examples=300, deadline=None)
def test_any_metadata_is_a_tokenizer_or_one_line(kind, damage):
    metadata = byte_level_metadata(**({"model": kind} | damage))
    try:
        load_gguf_tokenizer(metadata)
    except ModelFileError as error:
        assert "\n" not in str(error) and str(error).startswith("GGUF tokenizer: ")


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_spm_metadata_equals_the_sentencepiece_library(name):
    """As converters write it: spaces of users' pieces are spaces, those of the others U+2581."""
    import sentencepiece

    data = train("bpe", **SETTINGS[name])
    model = read_spm_model(data)
    users = set(model.pieces.of(Kind.USER))
    names = [each.replace("▁", " ") if id in users else each for id, each in enumerate(model.pieces.names)]
    assert (name == "gemma") == any(" " in each for each in names)
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": model.pieces.kinds,
        "tokenizer.ggml.scores": model.pieces.scores,
        "tokenizer.ggml.add_space_prefix": model.dummy_prefix,
    }
    ours, theirs = load_gguf_tokenizer(metadata), sentencepiece.SentencePieceProcessor(model_proto=data)

    check_against_library(ours, theirs, 150)


def test_a_file_without_token_types_has_bytes_and_control_tokens_all_the_same(spm_metadata):
    silent = {key: value for key, value in spm_metadata.items() if not key.endswith("token_type")}
    text = "hello\nwörld"
    assert load_gguf_tokenizer(silent).encode(text) == load_gguf_tokenizer(spm_metadata).encode(text)
    ends = load_gguf_tokenizer({k: v for k, v in byte_level_metadata().items() if "type" not in k and "eos" not in k})
    assert ends.eos_token_ids == (4,)


def test_merges_are_no_optional_key():
    with pytest.raises(ModelFileError, match=r"tokenizer\.ggml\.merges is missing"):
        load_gguf_tokenizer(byte_level_metadata(merges=None))
    assert load_gguf_tokenizer(byte_level_metadata(merges=[])).encode("ab") == (0, 1)
