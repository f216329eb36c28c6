import gzip
import json
import shutil
from datetime import datetime
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from penstock.core import InvalidRequest, ModelFileError, limits
from penstock.text import load_tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data"


def make_folder(path, hf=None, **files):
    """A folder with a tokenizer of single letters and the JSON files given."""
    if hf is None:
        hf = Tokenizer(models.BPE({letter: id for id, letter in enumerate("abcĠ<|>/s")}, []))
        hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        hf.decoder = decoders.ByteLevel()
        hf.add_special_tokens([AddedToken("<s>", normalized=False), AddedToken("</s>", normalized=False)])
        hf.add_tokens([AddedToken("<|turn|>", normalized=False), AddedToken("abc", normalized=False)])
    path.mkdir(exist_ok=True)
    hf.save(str(path / "tokenizer.json"))
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path


def test_special_ids_come_from_all_files(tmp_path):
    folder = make_folder(
        tmp_path,
        special_tokens_map={"bos_token": {"content": "<s>"}},
        tokenizer_config={"eos_token": "</s>"},
        generation_config={"eos_token_id": [11, 10**9]},
    )
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (9, (10, 11))
    assert tokenizer.encode("abca") == (12, 0)
    assert tokenizer.chat_template is None


def test_forgotten_turn_tokens_are_control_tokens(tmp_path):
    tokenizer = load_tokenizer(make_folder(tmp_path))
    assert 11 not in tokenizer.encode("a<|turn|>")
    assert 11 in tokenizer.encode("a<|turn|>", allow_special=True)
    assert 12 in tokenizer.encode("abc")  # the control: an ordinary added token is text


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast"])
def test_llama_classes_add_what_they_are_told(tmp_path, name):
    config = {"tokenizer_class": name, "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    assert load_tokenizer(make_folder(tmp_path, tokenizer_config=config)).encode("a") == (9, 0)
    config["add_eos_token"] = True
    assert load_tokenizer(make_folder(tmp_path, tokenizer_config=config)).encode("a") == (9, 0, 10)
    config["tokenizer_class"] = "Other"
    assert load_tokenizer(make_folder(tmp_path, tokenizer_config=config)).encode("a") == (0,)


def test_template_file_comes_before_the_configuration(tmp_path):
    folder = make_folder(tmp_path, tokenizer_config={"chat_template": "config"})
    assert load_tokenizer(folder).chat_template.source == "config"
    (folder / "chat_template.jinja").write_text("file")
    assert load_tokenizer(folder).chat_template.source == "file"


def test_a_broken_template_is_found_at_load_and_names_its_file(tmp_path):
    folder = make_folder(tmp_path, tokenizer_config={"chat_template": "{% if %}"})
    with pytest.raises(ModelFileError, match=r"tokenizer_config\.json: not a valid chat template at line 1"):
        load_tokenizer(folder)
    (folder / "chat_template.jinja").write_text("a\n{% for %}")
    with pytest.raises(ModelFileError, match=r"chat_template\.jinja: not a valid chat template at line 2"):
        load_tokenizer(folder)


def test_named_templates(tmp_path):
    named = [{"name": "default", "template": "abc"}, {"name": "tool_use", "template": "c"}]
    tokenizer = load_tokenizer(make_folder(tmp_path, tokenizer_config={"chat_template": named}))
    messages = [{"role": "user", "content": "x"}]
    assert tokenizer.encode_chat(messages) == (12,)
    assert tokenizer.encode_chat(messages, tools=[{"type": "function", "function": {"name": "f"}}]) == (2,)
    empty = load_tokenizer(make_folder(tmp_path, tokenizer_config={"chat_template": []}))
    assert empty.chat_template is None


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_a_template_for_tools_has_a_file_of_its_own(tmp_path):
    folder = make_folder(tmp_path)
    (folder / "chat_template.jinja").write_text("a{{ messages[0].content }}")
    asked = {"messages": [{"role": "user", "content": "c"}], "tools": [TOOL]}
    with pytest.raises(InvalidRequest, match="takes no tools"):  # the control: one template alone
        load_tokenizer(folder).encode_chat(**asked)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("b{{ messages[0].content }}{{ tools and '' }}")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode_chat(**asked)) == "bc"
    assert tokenizer.decode(tokenizer.encode_chat(asked["messages"])) == "ac"


def test_the_template_file_of_an_older_time(tmp_path):
    folder = make_folder(tmp_path, chat_template={"chat_template": "a{{ messages[0].content }}"})
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode_chat([{"role": "user", "content": "c"}])) == "ac"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "b"}))
    assert load_tokenizer(folder).chat_template.source == "b"


def test_the_date_is_injected(tmp_path):
    folder = make_folder(tmp_path, tokenizer_config={"chat_template": "{{ 'a' * (strftime_now('%m') | int) }}"})
    tokenizer = load_tokenizer(folder, now=lambda: datetime(2024, 2, 1))
    assert tokenizer.encode_chat([{"role": "user", "content": "x"}]) == (0, 0)


def test_space_before_the_first_word_only(tmp_path):
    hf = Tokenizer(models.BPE({letter: id for id, letter in enumerate("▁ab")}, []))
    hf.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    hf.decoder = decoders.Metaspace(prepend_scheme="first")
    hf.add_special_tokens([AddedToken("<s>", normalized=False)])
    tokenizer = load_tokenizer(make_folder(tmp_path, hf))
    assert tokenizer.encode("a<s>b", allow_special=True) == tuple(hf.encode("a<s>b").ids) == (0, 1, 3, 2)
    assert tokenizer.encode("ab") == tuple(hf.encode("ab").ids)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.json", b"", "not a tokenizer"),
        ("tokenizer.json", b"{}", "not a tokenizer"),
        ("tokenizer.json", b'{"model": ', "not a tokenizer"),
        ("tokenizer_config.json", b"[1]", "JSON object"),
        ("tokenizer_config.json", b"\xff\xfe", "not valid JSON"),
        ("generation_config.json", b"[" * 100_000, "levels deep"),
        ("chat_template.jinja", b"\xff", "not UTF-8"),
        ("chat_template.jinja", b"a" * (limits.MAX_TEMPLATE_CHARS + 1), "characters"),
        ("tokenizer_config.json", b" " * (limits.MAX_CONFIG_BYTES + 1), "larger than"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, name, content, reason):
    folder = make_folder(tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        load_tokenizer(folder)
    text = str(caught.value)
    assert reason in text and "\n" not in text
    assert name.split(".")[0].replace("_", " ") in text.replace("_", " ")


def test_missing_tokenizer(tmp_path):
    with pytest.raises(ModelFileError, match=r"tokenizer\.json: no such file.*hint"):
        load_tokenizer(tmp_path)


def test_a_published_file_agrees_with_transformers(tmp_path):
    from transformers import PreTrainedTokenizerFast

    source = DATA / "tokenizers" / "hf_tokenizer_json_torchtitan.json.gz"
    if not source.exists():
        pytest.skip("the shared tokenizer files are not here")
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress(source.read_bytes()))
    shutil.copy(source.with_name("hf_tokenizer_json_torchtitan_config.json"), tmp_path / "tokenizer_config.json")
    ours = load_tokenizer(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in ("Hello world", " déjà 你好 😀", "a\n\n  b"):
        assert list(ours.encode(text)) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))
