import gzip
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.text import load_tokenizer
from penstock.text.stream import ByteStream

DATA = Path(__file__).parents[3] / "shared" / "data"
TEXTS = [
    "Hello  world",
    "  two spaces",
    "👩‍👩‍👧‍👦 family",
    "你好，世界",
    "é e\u0301",
    "a\n\n\tb",
    " ",
    "",
    "Ωμέγα 𝔘𝔫𝔦",
    "ü Führer",
]


def cut_at(ids, cuts):
    """The ids in pieces; a cut may repeat, so some pieces are empty."""
    edges = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    return [ids[start:end] for start, end in pairwise(edges)]


def stream_pieces(tokenizer, pieces, skip):
    stream = tokenizer.stream(skip)
    return [*(stream.push(piece) for piece in pieces), stream.flush()]


CUTS = st.lists(st.integers(0, 500), max_size=12)


def check_any_ids(tokenizer, ids, cuts, skip):
    pieces = stream_pieces(tokenizer, cut_at(ids, cuts), skip)
    assert "".join(pieces) == tokenizer.decode(ids, skip)
    for piece in pieces[:-1]:
        piece.encode("utf-8")  # no surrogate halves


@given(data=st.data(), cuts=CUTS, skip=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_split_of_any_ids_byte_level(byte_level, data, cuts, skip):
    ids = data.draw(st.lists(st.integers(0, byte_level.vocab_size - 1), max_size=30))
    check_any_ids(byte_level, ids, cuts, skip)


@given(data=st.data(), cuts=CUTS, skip=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_split_of_any_ids_spm(spm, data, cuts, skip):
    ids = data.draw(st.lists(st.integers(0, spm.vocab_size - 1), max_size=30))
    check_any_ids(spm, ids, cuts, skip)


@pytest.mark.parametrize("text", TEXTS)
def test_real_vocabularies_stream_their_texts(real, text):
    name, tokenizer = real
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    for size in (1, 2, 3):
        pieces = [ids[at : at + size] for at in range(0, len(ids), size)]
        shown = stream_pieces(tokenizer, pieces, True)
        assert "".join(shown) == text
        assert all("�" not in piece for piece in shown), name


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_real_text_round_trips(real, data):
    _, tokenizer = real
    text = data.draw(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=20))
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, False) == text


def test_half_a_code_point_waits_and_ends_as_one_replacement(spm):
    stream = spm.stream(True)
    first, second = 3 + 0xE4, 3 + 0xBD  # the bytes of 你 are E4 BD A0
    assert stream.push([first]) == ""
    assert stream.push([second]) == ""
    assert stream.flush() == "�"
    whole = spm.stream(True)
    assert [whole.push([3 + byte]) for byte in "你".encode()] == ["", "", "你"]


def test_decoding_each_token_alone_is_wrong(spm):
    """The control: what the property would catch."""
    ids = [3 + byte for byte in "你".encode()]
    assert "".join(spm.token_text(id) for id in ids) != spm.decode(ids)


def test_leading_space_goes_unless_the_text_continues(spm):
    ids = spm.encode("hello world", add_special_tokens=False)
    assert spm.decode(ids) == "hello world"
    assert spm.stream(True).push(ids) == "hello world"
    assert spm.stream(True, after=ids[0]).push(ids) == " hello world"
    assert spm.stream(True, after=spm.bos_token_id).push(ids) == "hello world"


def test_control_tokens_are_skipped_or_shown(spm):
    ids = [spm.bos_token_id, *spm.encode("hello", add_special_tokens=False), 2]
    assert spm.decode(ids) == "hello"
    assert spm.decode(ids, skip_special_tokens=False) == "<s> hello</s>"


def test_ids_without_a_name_add_nothing(spm):
    stream = spm.stream(True)
    assert stream.push([10**6, -1]) == ""
    assert stream.flush() == ""


def test_strip_counts_spaces_over_tokens():
    pieces = {0: b" ", 1: b"  a", 2: b" b"}
    stream = ByteStream(pieces.__getitem__, 2)
    assert stream.push([0, 1, 2]) + stream.push([2]) == " a b b"
    one = ByteStream(pieces.__getitem__, 2)
    assert "".join(one.push([id]) for id in (0, 1, 2, 2)) == " a b b"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    source = DATA / "tokenizers" / "hf_tokenizer_json_bert.json.gz"
    if not source.exists():
        pytest.skip("the shared tokenizer files are not here")
    folder = tmp_path_factory.mktemp("bert")
    (folder / "tokenizer.json").write_bytes(gzip.decompress(source.read_bytes()))
    return load_tokenizer(folder)


@given(data=st.data(), cuts=CUTS)
@settings(max_examples=60, deadline=None)
def test_any_split_where_only_windows_decode(bert, data, cuts):
    ids = data.draw(st.lists(st.integers(0, bert.vocab_size - 1), max_size=15))
    check_any_ids(bert, ids, cuts, True)


def test_window_decoding_equals_the_tokenizers_own(bert):
    ids = bert.encode("Unaffable giraffes, playing; the tokenization isn't over.", add_special_tokens=False)
    assert bert.decode(ids) == bert._hf.decode(list(ids), skip_special_tokens=True)
    assert bert.decode(ids) == "unaffable giraffes, playing ; the tokenization isn ' t over."
