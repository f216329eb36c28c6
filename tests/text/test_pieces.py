import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers
from tokenizers.pre_tokenizers import ByteLevel

from penstock.text.pieces import PieceRule, byte_alphabet, drops_text, piece_bytes, read_rule


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


@pytest.mark.parametrize(
    ("normalizer", "drops"),
    [
        (None, False),
        (normalizers.NFC(), False),
        (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), False),
        (normalizers.Replace("abc", "a"), True),
        (normalizers.Replace(Regex(" +"), " "), True),
        (normalizers.Sequence([normalizers.NFC(), normalizers.Strip()]), True),
        (normalizers.BertNormalizer(), True),
    ],
)
def test_which_normalizers_drop_text(normalizer, drops):
    hf = Tokenizer(models.BPE())
    if normalizer is not None:
        hf.normalizer = normalizer
    assert drops_text(hf) is drops


def test_unknown_characters_may_become_one_token():
    for fallback in (False, True):
        assert drops_text(Tokenizer(models.BPE(fuse_unk=True, byte_fallback=fallback))) is not fallback
    assert drops_text(Tokenizer(models.Unigram([("a", 0.0)], unk_id=0, byte_fallback=False)))
