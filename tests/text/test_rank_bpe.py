import base64
import gzip
import json
import random

import pytest
import regex
from hypothesis import given, settings
from tests.text.torture import TORTURE, merge_by_score, real_file, real_texts

from penstock.core import ModelFileError
from penstock.text import load_tokenizer
from penstock.text.rank_bpe import build_rank_bpe, looks_like_ranks, read_tekken, read_tiktoken

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


class Oracle:
    """The published algorithm: cut, take a word whole if it is a token, else merge by rank."""

    def __init__(self, tokens, pattern, first_id=0):
        self.ids = {token: id for id, token in enumerate(tokens, first_id)}
        self.score = {token: -id for token, id in self.ids.items()}
        self.pattern = regex.compile(pattern)

    def encode(self, text):
        ids = []
        for word in self.pattern.findall(text):
            data = word.encode()
            whole = data in self.ids
            parts = [data] if whole else merge_by_score([bytes((byte,)) for byte in data], self.score)
            ids += [self.ids[part] for part in parts]
        return ids


@pytest.fixture(scope="module")
def llama3(tmp_path_factory):
    data = gzip.decompress(real_file("llama3_tiktoken.model.gz").read_bytes())
    folder = tmp_path_factory.mktemp("llama3")
    (folder / "tokenizer.model").write_bytes(data)
    tokens = [base64.b64decode(line.split()[0]) for line in data.splitlines()]
    return load_tokenizer(folder), Oracle(tokens, LLAMA3), tokens


@given(TORTURE)
@settings(max_examples=300, deadline=None)
def test_llama3_equals_the_algorithm(llama3, text):
    ours, oracle, _ = llama3
    ids = ours.encode(text, add_special_tokens=False)
    assert list(ids) == oracle.encode(text)
    assert ours.decode(ids, skip_special_tokens=False) == text


def test_llama3_on_real_texts_and_words_of_its_own(llama3):
    ours, oracle, tokens = llama3
    words = [token.decode() for token in tokens if token.isascii()]
    chance = random.Random(3)
    mixed = ["".join(chance.choices(words, k=4)) for _ in range(1000)]
    runs = [char * count + "x" for char in " \n-=1a" for count in range(0, 140, 7)]
    for text in [*real_texts(8000), *mixed, *runs]:
        assert list(ours.encode(text, add_special_tokens=False)) == oracle.encode(text)


def test_llama3_where_two_merges_of_one_token_overlap(llama3):
    ours, oracle, tokens = llama3
    names = set(tokens)
    found = [
        name[:at] + name
        for name in tokens
        if len(name) < 12
        for at in range(1, len(name))
        if name.startswith(name[at:]) and {name[:at], name[at:]} <= names and name[len(name) - at :] in names
    ]
    texts = [data.decode() for data in found if data.isascii()]
    assert len(texts) > 300
    for text in texts:
        assert list(ours.encode(text, add_special_tokens=False)) == oracle.encode(text)


def test_llama3_special_tokens(llama3):
    ours, _, _ = llama3
    assert ours.vocab_size == 128_256
    assert ours.bos_token_id == 128_000
    assert {128_001, 128_009} <= set(ours.eos_token_ids)
    assert ours.encode("<|eot_id|>", add_special_tokens=False, allow_special=True) == (128_009,)
    assert 128_009 not in ours.encode("<|eot_id|>")
    assert ours.encode("a")[0] == 128_000


def test_the_oracle_can_fail(llama3):
    """The control: without the rule that words are taken whole, or with another cut, ids differ."""
    ours, oracle, tokens = llama3
    other = Oracle(tokens, LLAMA3.replace("{1,3}", ""))
    assert other.encode("12345") != oracle.encode("12345") == list(ours.encode("12345", add_special_tokens=False))


def test_names_in_the_configuration_count_more(tmp_path):
    (tmp_path / "tekken.json").write_bytes(tekken()[0])
    added = {"9": {"content": "<|mine|>", "special": True}}
    config = {"added_tokens_decoder": added, "eos_token": "<|mine|>", "add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("<|mine|>", allow_special=True) == (9,)
    assert 9 in tokenizer.eos_token_ids
    config["added_tokens_decoder"] = {"25": {"content": "<|mine|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match="has the id 25 of an ordinary one"):
        load_tokenizer(tmp_path)


def lines(count=3, ranks=None):
    ranks = ranks or range(count)
    return b"".join(base64.b64encode(str(rank).encode()) + b" %d\n" % rank for rank in ranks)


def test_tiktoken_files_are_told_from_others():
    assert looks_like_ranks(lines())
    assert not looks_like_ranks(b"\x0a\x0e\x0a\x05<unk>")
    assert not looks_like_ranks(b"") and not looks_like_ranks(b"abc 1\n") and not looks_like_ranks(b"abcd x\n")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lines(3), "3 ranks, Llama 3 has 128000.*hint"),
        (lines(128_000).replace(b" 77\n", b" 78\n"), "ascend"),
        (lines(128_000).replace(b" 77\n", b" x7\n"), "ascend"),
        (b"!!!! 0\n" + lines(ranks=range(1, 128_000)), "base64"),
    ],
)
def test_bad_tiktoken_files_are_refused(data, reason):
    with pytest.raises(ModelFileError, match=reason):
        read_tiktoken(data)


def tekken(**changes):
    words = [bytes((byte,)) for byte in range(256)] + [b"th", b"the", b" t", b"he", b"aa", b"aaa"]
    vocab = [{"rank": at, "token_bytes": base64.b64encode(word).decode()} for at, word in enumerate(words)]
    config = {"pattern": TEKKEN, "default_vocab_size": 20 + 260, "default_num_special_tokens": 20}
    for key in config.keys() & changes.keys():
        config[key] = changes.pop(key)
    return json.dumps({"config": config, "vocab": vocab, **changes}).encode(), words


@given(TORTURE)
@settings(max_examples=100, deadline=None)
def test_tekken_equals_the_algorithm(text):
    data, words = tekken()
    model = read_tekken(data)
    hf, oracle = build_rank_bpe(model), Oracle(words[:260], TEKKEN, first_id=20)
    assert hf.encode(text, add_special_tokens=False).ids == oracle.encode(text)


def test_tekken_folder(tmp_path):
    (tmp_path / "tekken.json").write_bytes(tekken(default_vocab_size=20 + 262)[0])
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("the") == (1, 20 + 257)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, (2,))
    assert tokenizer.encode("[INST]", allow_special=True) == (1, 3)
    named = [{"rank": 0, "token_str": "<unk>"}, {"rank": 1, "token_str": "<s>"}, {"rank": 2, "token_str": "</s>"}]
    data, _ = tekken(special_tokens=[*named, {"rank": 7, "token_str": "<mine>"}])
    (tmp_path / "tekken.json").write_bytes(data)
    assert load_tokenizer(tmp_path).encode("<mine>", allow_special=True, add_special_tokens=False) == (7,)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{}", "not a (tekken vocabulary|tokenizer)"),
        (b"[" * 100_000, "not a (tekken vocabulary|tokenizer)"),
        (b'{"config": 3}', "not a (tekken vocabulary|tokenizer)"),
        (tekken(vocab=[{"rank": 0}])[0], "not a (tekken vocabulary|tokenizer)"),
        (tekken(default_num_special_tokens=0)[0], "0 of them special"),
        (tekken(default_vocab_size=10**9)[0], "sizes and ranks"),
        (tekken(pattern="(a+)+")[0], "repeats something that varies"),
        (tekken(pattern=3)[0], "wrong type"),
        (tekken(special_tokens=[{"rank": 99, "token_str": "x"}])[0], "outside its range"),
        (tekken(special_tokens=[{"rank": 0, "token_str": "x"}, {"rank": 1, "token_str": "x"}])[0], "the same name"),
    ],
)
def test_bad_tekken_files_are_refused(data, reason):
    with pytest.raises(ModelFileError, match=reason):
        read_tekken(data)


def test_vocabularies_that_do_not_cover_bytes_are_refused():
    data, _ = tekken(default_vocab_size=20 + 200)
    with pytest.raises(ModelFileError, match="not every byte"):
        build_rank_bpe(read_tekken(data))
