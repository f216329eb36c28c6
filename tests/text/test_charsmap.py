import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text.test_spm import train

from penstock.core import ModelFileError
from penstock.text.charsmap import CharsMap
from penstock.text.sentencepiece_model import read_spm_model


@pytest.fixture(scope="module")
def data():
    return read_spm_model(train("bpe")).charsmap


def test_the_longest_key_wins(data):
    changed = CharsMap(data, [])
    assert changed("ſ\u200d ﬁ ½ e\u0301 ＡＢ\t한") == "s\u200d fi 1⁄2 é AB 한"
    assert changed("") == ""


def test_kept_pieces_stay(data):
    assert CharsMap(data, ["ﬁ!"])("ﬁ ﬁ!") == "fi ﬁ!"


@pytest.mark.parametrize("broken", [b"", b"\x04", b"\x00\x00\x00\x00abcd", b"\xff" * 16, b"\x05\x00\x00\x00abcdefgh"])
def test_sizes_that_do_not_fit_are_refused(broken):
    with pytest.raises(ModelFileError, match="character map: a trie of"):
        CharsMap(broken, [])


@given(st.binary(min_size=8, max_size=200), st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_no_map_can_break_a_text(units, text):
    size = len(units) // 8 * 4
    assert isinstance(CharsMap(size.to_bytes(4, "little") + units, [])(text), str)


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), max_size=40), st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_no_damage_can_break_a_text(data, damage, text):
    changed = bytearray(data)
    for at, byte in damage:
        changed[4 + at] = byte
    assert isinstance(CharsMap(bytes(changed), [])(text), str)
