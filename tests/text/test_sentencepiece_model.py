import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text.torture import real_file

from penstock.core import ModelFileError, limits
from penstock.text.sentencepiece_model import BPE, PIECE_BYTES, UNIGRAM, read_spm_model


def varint(value):
    out = bytearray()
    value &= (1 << 64) - 1
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, value):
    """One field: a number, a float or bytes."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(name, score=0.0, kind=1):
    return field(1, field(1, name.encode()) + field(2, score) + field(3, kind))


def model(pieces=None, trainer=b"", normalizer=b""):
    pieces = pieces or piece("<unk>", 0.0, 2) + piece("<s>", 0.0, 3) + piece("</s>", 0.0, 3) + piece("a", -1.0)
    return pieces + field(2, trainer) + field(3, normalizer)


def test_what_a_file_says():
    found = read_spm_model(model(trainer=field(3, 2) + field(43, -1), normalizer=field(3, 0) + field(4, 0)))
    assert found.pieces.names == ["<unk>", "<s>", "</s>", "a"]
    assert (found.pieces.kinds, found.pieces.scores) == ([2, 3, 3, 1], [0.0, 0.0, 0.0, -1.0])
    assert found.ids == {"unk_token": 0, "bos_token": 1, "eos_token": 2}
    assert (found.model_type, found.dummy_prefix, found.squeeze, found.escape) == (BPE, False, False, True)


def test_defaults_are_those_of_the_format():
    found = read_spm_model(model())
    assert (found.model_type, found.dummy_prefix, found.squeeze, found.escape) == (UNIGRAM, True, True, True)
    assert found.charsmap == b""
    assert read_spm_model(field(1, field(1, b"x"))).pieces.kinds == [1]


def test_unknown_fields_are_skipped():
    extra = field(99, b"abc") + varint(98 << 3 | 1) + bytes(8) + varint(97 << 3 | 5) + bytes(4) + field(96, 7)
    assert read_spm_model(extra + model() + extra).pieces.names == read_spm_model(model()).pieces.names


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no pieces"),
        (model(trainer=field(3, 3)), "the model is word"),
        (model(trainer=field(3, 9)), "the model is 9"),
        (model(trainer=field(24, 1)), "treat_whitespace_as_suffix"),
        (model(trainer=field(3, b"x")), "string stands where a number"),
        (field(1, 5), "number stands where a message"),
        (model()[:-1] + b"\x80", "ends inside a number|broken at byte"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "bytes of 0"),
        (b"\xff" * 11, "more than ten bytes"),
        (b"\x0b", "wire type 3"),
        (piece("x", kind=77), "kind 77"),
        (piece("x", kind=0), "kind 0"),
        (field(1, field(1, b"\xff")), "isn't UTF-8"),
        (piece("x" * (4 * limits.MAX_PIECE_CHARS + 1)), "a piece of 2049 bytes"),
    ],
)
def test_bad_files_are_refused(data, reason):
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_spm_model(data)
    assert "\n" not in str(caught.value)


def test_too_many_pieces(monkeypatch):
    monkeypatch.setattr(limits, "MAX_OVERHEAD_BYTES", 3 * PIECE_BYTES)
    with pytest.raises(ModelFileError, match="more than 3 pieces"):
        read_spm_model(model())


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_model_or_one_line(data):
    try:
        read_spm_model(data)
    except ModelFileError as error:
        assert "\n" not in str(error)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_damage_is_a_model_or_one_line(data):
    whole = bytearray(model(trainer=field(3, 2) + field(43, -1), normalizer=field(2, b"abcd") + field(3, 0)))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        read_spm_model(bytes(whole[:cut]))
    except ModelFileError as error:
        assert "\n" not in str(error)


def test_a_published_file_is_read_as_its_library_reads_it():
    import sentencepiece

    path = real_file("mistral_v3_sentencepiece.model")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ours = read_spm_model(path.read_bytes()).pieces
    assert ours.names == [theirs.id_to_piece(id) for id in range(theirs.get_piece_size())]
    assert ours.scores == [theirs.get_score(id) for id in range(theirs.get_piece_size())]
    assert [kind == 3 for kind in ours.kinds] == [theirs.is_control(id) for id in range(theirs.get_piece_size())]
    assert [kind == 6 for kind in ours.kinds] == [theirs.is_byte(id) for id in range(theirs.get_piece_size())]
