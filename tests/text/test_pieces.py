import pytest
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel

from penstock.text.pieces import PieceRule, byte_alphabet, piece_bytes, read_rule


def with_decoder(decoder):
    hf = Tokenizer(models.BPE())
    if decoder is not None:
        hf.decoder = decoder
    return hf


def test_alphabet_is_the_published_one():
    table = byte_alphabet()
    assert sorted(table) == sorted(ByteLevel.alphabet())
    assert sorted(table.values()) == list(range(256))
    assert table["Ġ"] == 0x20 and table["Ċ"] == 0x0A


SPM = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


@pytest.mark.parametrize(
    ("decoder", "rule"),
    [
        (decoders.ByteLevel(), PieceRule(byte_level=True)),
        (decoders.Sequence(SPM), PieceRule(space="▁", byte_fallback=True)),
        (decoders.Sequence([*SPM, decoders.Strip(" ", 1, 0)]), PieceRule(space="▁", byte_fallback=True, strip=1)),
        (decoders.Metaspace(), PieceRule(space="▁", strip=1)),
        (decoders.Metaspace(prepend_scheme="never"), PieceRule(space="▁")),
        (decoders.WordPiece(), None),
        (decoders.Sequence([decoders.Replace("▁", " "), decoders.CTC(), decoders.Fuse()]), None),
        (decoders.Sequence([*SPM, decoders.Strip(" ", 0, 1)]), None),
        (None, None),
    ],
)
def test_rules(decoder, rule):
    assert read_rule(with_decoder(decoder)) == rule


def test_piece_bytes():
    alphabet = byte_alphabet()
    assert piece_bytes("Ġé", PieceRule(byte_level=True), alphabet) == b" \xe9"
    assert piece_bytes("▁a", PieceRule(byte_level=True), alphabet) == "▁a".encode()
    assert piece_bytes("<0xE4>", PieceRule(byte_fallback=True), {}) == b"\xe4"
    assert piece_bytes("<0xE4>", PieceRule(), {}) == b"<0xE4>"
    assert piece_bytes("▁▁a", PieceRule(space="▁"), {}) == b"  a"
