import gzip
import json

import pytest
from hypothesis import given, settings
from tests.text.torture import TORTURE, real_file, real_texts
from tokenizers import Tokenizer

from penstock.core import ModelFileError, limits
from penstock.text import load_gguf_tokenizer, load_tokenizer
from penstock.text.spm import Pieces
from penstock.text.wordpiece import build_wordpiece


def gguf_spelling(name):
    """What a converter writes for one of BERT's pieces."""
    if name.startswith("[") and name.endswith("]"):
        return name
    return name[2:] if name.startswith("##") else "▁" + name


def metadata_of(state):
    vocab = sorted(state["model"]["vocab"], key=state["model"]["vocab"].__getitem__)
    ids = state["model"]["vocab"]
    special = {"[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"}
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": [gguf_spelling(name) for name in vocab],
        "tokenizer.ggml.token_type": [3 if name in special else 1 for name in vocab],
        "tokenizer.ggml.bos_token_id": ids["[CLS]"],
        "tokenizer.ggml.seperator_token_id": ids["[SEP]"],
        "tokenizer.ggml.unknown_token_id": ids["[UNK]"],
    }


@pytest.fixture(scope="module")
def bert():
    state = json.loads(gzip.decompress(real_file("hf_tokenizer_json_bert.json.gz").read_bytes()))
    theirs = Tokenizer.from_str(json.dumps(state))
    theirs.no_padding()
    theirs.no_truncation()
    theirs.encode_special_tokens = True
    return load_gguf_tokenizer(metadata_of(state)), theirs, state


@given(TORTURE)
@settings(max_examples=300, deadline=None)
def test_ids_and_text_are_those_of_the_published_tokenizer(bert, text):
    ours, theirs, _ = bert
    text = text.replace("[UNK]", "UNK")  # control tokens in text: never ours, theirs split words around them
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert list(ours.encode(text, add_special_tokens=False)) == ids
    assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids, skip_special_tokens=False)


def test_real_texts_and_what_goes_around_them(bert):
    ours, theirs, _ = bert
    for text in real_texts(5000):
        assert list(ours.encode(text)) == theirs.encode(text).ids


def test_letters_count_where_the_file_says_so(bert):
    """The control: the flag changes ids."""
    ours, _, state = bert
    cased = load_gguf_tokenizer(metadata_of(state) | {"tokenizer.ggml.normalizer.lowercase": False})
    assert cased.encode("Hello") != ours.encode("Hello") == ours.encode("hello") == cased.encode("hello")
    accents = load_gguf_tokenizer(metadata_of(state) | {"tokenizer.ggml.normalizer.strip_accents": False})
    assert accents.encode("é") != ours.encode("é") == ours.encode("e")


def test_unknown_words_and_long_ones(bert):
    ours, _, _ = bert
    unknown = ours.encode("[UNK]", add_special_tokens=False, allow_special=True)
    assert ours.encode("a" * 101, add_special_tokens=False) == unknown
    assert len(ours.encode("a" * 100, add_special_tokens=False)) > 1


def test_pieces_that_become_one_are_refused():
    pieces = Pieces(["[UNK]", "##a", "a", "▁a"], [3, 3, 1, 1], [0.0] * 4)
    with pytest.raises(ModelFileError, match="the same piece"):
        build_wordpiece(pieces, unknown=0, lowercase=True, strip_accents=True)


def test_the_published_folder_encodes_and_decodes(bert, tmp_path):
    _, theirs, state = bert
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"unk_token": "[UNK]", "cls_token": "[CLS]"}))
    ours = load_tokenizer(tmp_path)
    for text in (*real_texts(2000), "Unaffable hello-world!", "don't", "你好 é"):
        ids = theirs.encode(text).ids
        assert list(ours.encode(text)) == ids
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode(ours.encode("unaffable")) == "unaffable"  # the control: pieces are joined, not spaced
    assert ours.max_token_bytes == limits.MAX_BODY_BYTES
