"""Folders whose tokenizer is a SentencePiece file."""

import json
import re

import pytest
import sentencepiece
from hypothesis import given, settings
from tests.text.test_spm import SETTINGS, train
from tests.text.torture import DATA, TORTURE, real_file

from penstock.core import ModelFileError
from penstock.text import load_tokenizer


def make(folder, data, **files):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(data)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return load_tokenizer(folder)


@pytest.fixture(scope="module", params=["llama2_sentencepiece.model", "mistral_v3_sentencepiece.model"])
def published(request, tmp_path_factory):
    data = real_file(request.param).read_bytes()
    return make(tmp_path_factory.mktemp("m") / "m", data), sentencepiece.SentencePieceProcessor(model_proto=data)


@given(TORTURE)
@settings(max_examples=300, deadline=None)
def test_published_files_encode_and_decode_as_their_library_does(published, text):
    ours, theirs = published
    ids = ours.encode(text, add_special_tokens=False)
    assert list(ids) == theirs.encode(text)
    assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(list(ids))


def test_published_files_begin_texts(published):
    ours, theirs = published
    assert ours.encode("hello") == (1, *theirs.encode("hello"))
    assert (ours.bos_token_id, ours.eos_token_ids, ours.vocab_size) == (1, (2,), theirs.get_piece_size())
    assert ours.encode("<s>hello</s>", add_special_tokens=False, allow_special=True) == (1, *theirs.encode("hello"), 2)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_decodes_as_its_library_does(tmp_path, kind, name):
    data = train(kind, **SETTINGS[name])
    ours, theirs = make(tmp_path / "m", data), sentencepiece.SentencePieceProcessor(model_proto=data)
    for text in ("the king", "  Romeo walks\tto the king ", "你好 <u> 世界", "é ½"):
        ids = theirs.encode(text)
        if theirs.unk_id() in ids:  # the library writes unknown ones its own way
            continue
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)


@pytest.fixture(scope="module")
def llama():
    return train("bpe", **SETTINGS["llama"])


def test_flags_of_the_configuration(tmp_path, llama):
    bare = make(tmp_path / "a", llama)
    ids = bare.encode("the", add_special_tokens=False)
    assert bare.encode("the") == (1, *ids)
    both = make(tmp_path / "b", llama, tokenizer_config={"add_bos_token": False, "add_eos_token": True})
    assert both.encode("the") == (*ids, 2)
    glued = make(tmp_path / "c", llama, tokenizer_config={"add_prefix_space": False})
    assert glued.encode(" the", add_special_tokens=False) == ids != glued.encode("the", add_special_tokens=False)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_special_ids_of_both_kinds_of_model(tmp_path, kind):
    tokenizer = make(tmp_path / "m", train(kind), generation_config={"eos_token_id": 3})
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, (2, 3))
    assert tokenizer.encode("<s></s>", add_special_tokens=False, allow_special=True) == (1, 2)
    assert {1, 2}.isdisjoint(tokenizer.encode("<s></s>", add_special_tokens=False))
    assert tokenizer.token_text(2) == "</s>" and tokenizer.decode([1, 2]) == ""


def test_the_space_between_control_tokens_and_text(tmp_path, llama):
    before = make(tmp_path / "a", llama, tokenizer_config={"legacy": True})
    since = make(tmp_path / "b", llama, tokenizer_config={"legacy": False})
    the = before.encode("the", add_special_tokens=False)
    glued = since.encode("</s>the", add_special_tokens=False, allow_special=True)
    assert before.encode("</s>the", add_special_tokens=False, allow_special=True) == (2, *the)
    assert glued != (2, *the) and glued[0] == 2 and since.decode(glued[1:]) == before.decode(the)
    assert since.encode("the", add_special_tokens=False) == the


def test_added_tokens_and_templates(tmp_path, llama):
    size = sentencepiece.SentencePieceProcessor(model_proto=llama).get_piece_size()
    added = {
        str(size): {"content": "<|im_end|>", "special": True, "rstrip": True},
        str(size + 1): {"content": "<think>", "special": False},
    }
    template = "{{ bos_token }}{% for message in messages %}{{ message.content }}{{ eos_token }}\n{% endfor %}"
    config = {"added_tokens_decoder": added, "eos_token": "<|im_end|>", "chat_template": template}
    tokenizer = make(tmp_path / "m", llama, tokenizer_config=config, generation_config={"eos_token_id": [2, size]})
    assert tokenizer.vocab_size == size + 2
    assert tokenizer.eos_token_ids == (2, size)
    the = tokenizer.encode("the", add_special_tokens=False)
    assert tokenizer.encode_chat([{"role": "user", "content": "the"}]) == (1, *the, size)
    assert size not in tokenizer.encode("<|im_end|>")
    thought = tokenizer.encode("the<think>the", add_special_tokens=False)
    assert size + 1 in thought and tokenizer.decode(thought) == "the<think>the"


def test_what_stands_first_counts(tmp_path, llama):
    from tests.text.test_folder import make_folder

    folder = make_folder(tmp_path / "m")
    (folder / "tokenizer.model").write_bytes(llama)
    assert load_tokenizer(folder).vocab_size < 20  # tokenizer.json


@pytest.mark.parametrize("data", [b"", b"\xff" * 20, b"abcd 0\n", b"\x0a\x03\x0a\x01a\x12\x02\x18\x03"])
def test_bad_files_are_named(tmp_path, data):
    with pytest.raises(ModelFileError, match=r"tokenizer\.model: ") as caught:
        make(tmp_path / "m", data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_published_conversations_have_the_published_ids(tmp_path, version):
    """Rendered by Mistral's own library; U+2581 after a control token is the space that the model adds."""
    samples = DATA / "chat_templates" / "mistral_chat_samples_a.json"
    tokenizer = make(tmp_path / "m", real_file("mistral_v3_sentencepiece.model").read_bytes())
    conversations = json.loads(samples.read_text())
    assert len(conversations) == 3
    for conversation in conversations.values():
        shown = re.sub(r"(\]|<s>|</s>)▁", r"\1", conversation[f"text_{version}.txt"])
        text = shown.replace("▁", " ").replace("<0x0A>", "\n")
        ids = tokenizer.encode(text, add_special_tokens=False, allow_special=True)
        assert list(ids) == conversation[f"tokens_{version}.json"]["tokens"]
        assert list(tokenizer.encode(text, add_special_tokens=False)) != list(ids)  # the control
