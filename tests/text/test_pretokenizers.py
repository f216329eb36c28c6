import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.text.pretokenizers import known_kinds, pre_tokenizer, word_cut

TEXT = "Hello  world's 12345 x\n\n  y!"
PIECES = [
    "a", "Z", "é", "e\u0301", "ñ", "ß", "Ǆ", "ǅ", "你", "好", "か", "カ", "한", "ㄱ", "א", "ب", "ـ",
    "ि", "ก", "๏", "1", "²", "٣", "Ⅷ", "½", "'", "'s", "'LL", "’s", "ſ", " ", "  ", "\u00a0",
    "\u3000", "\u2028", "\u0085", "\t", "\n", "\r\n", "\x0b", "\x00", "\x1f", ".", "/", "-",
    "…", "。", "$", "+", "€", "_", "😀", "👩‍👩‍👧", "\u200d", "\ufe0f", "\ufffd", "\ue000", "𝔘",
    "𐐀", "<|x|>",
]  # fmt: skip
TORTURE = st.lists(st.sampled_from(PIECES), max_size=24).map("".join)


def cut(kind, text):
    pieces = pre_tokenizer(word_cut(kind)).pre_tokenize_str(text)
    return [text[start:end] for _, (start, end) in pieces]


def oracle(kind, text):
    """The same cut by another engine of regular expressions: matches stand alone, so does what is between them."""
    parts = [text]
    for pattern in word_cut(kind).patterns:
        compiled = regex.compile(pattern, flags=regex.V1)
        found = []
        for part in parts:
            at = 0
            for match in compiled.finditer(part):
                found += [part[at : match.start()], match[0]]
                at = match.end()
            found.append(part[at:])
        parts = [part for part in found if part]
    return parts


def test_every_kind_keeps_every_character():
    for kind in known_kinds():
        assert "".join(cut(kind, TEXT)) == TEXT


@pytest.mark.parametrize("kind", known_kinds())
def test_another_engine_cuts_the_same(kind):
    @given(TORTURE)
    @settings(max_examples=40, deadline=None)
    def check(text):
        if "\\b" in "".join(word_cut(kind).patterns):  # the engines differ on whether these are part of a word
            text = text.translate(dict.fromkeys(map(ord, "²½Ⅷ")))
        assert cut(kind, text) == oracle(kind, text)

    check()


def test_the_oracle_tells_kinds_apart():
    """The control: no two of these agree on a text that has everything."""
    text = "HelloWorld's 12345 x;\n\n  你好 e\u0301\u0301 <=> $1\r\n/\n"
    kinds = (
        "gpt-2",
        "llama-bpe",
        "qwen2",
        "qwen35",
        "tekken",
        "gpt-4o",
        "deepseek-v3",
        "deepseek-coder",
        "smollm",
        "default",
    )
    assert len({tuple(oracle(kind, text)) for kind in kinds}) == len(kinds)


@pytest.mark.parametrize(
    ("kind", "digits"),
    [
        ("gpt-2", [" 12345"]),
        ("default", [" ", "123", "45"]),
        ("llama-bpe", [" ", "123", "45"]),
        ("gpt-4o", [" ", "123", "45"]),
        ("deepseek-v3", [" ", "123", "45"]),
        ("qwen2", [" ", "1", "2", "3", "4", "5"]),
        ("smollm", [" ", "1", "2", "3", "4", "5"]),
        ("tekken", [" ", "1", "2", "3", "4", "5"]),
        ("deepseek-coder", [" ", "1", "2", "3", "4", "5"]),
        ("superbpe", [" ", "12", "345"]),
        ("tiny_aya", [" ", "12", "345"]),
    ],
)
def test_digits(kind, digits):
    assert cut(kind, "x 12345")[1:] == digits or cut(kind, "x 12345") == ["x ", *digits[1:]]


def test_gpt2_equals_the_library():
    from tokenizers.pre_tokenizers import ByteLevel

    theirs = [piece for piece, _ in ByteLevel(add_prefix_space=False).pre_tokenize_str(TEXT)]
    assert [piece for piece, _ in pre_tokenizer(word_cut("gpt-2")).pre_tokenize_str(TEXT)] == theirs
    assert [piece for piece, _ in pre_tokenizer(word_cut("qwen2")).pre_tokenize_str(TEXT)] != theirs


def test_qwen_equals_transformers():
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as QWEN2
    from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX as QWEN35

    assert Qwen2Tokenizer is not None
    assert word_cut("qwen2").patterns == (QWEN2,)
    assert word_cut("qwen35").patterns == (QWEN35,)


def test_case_and_newlines():
    assert cut("llama-bpe", "I'LL go") == ["I", "'LL", " go"]
    assert cut("gpt-2", "I'LL go") == ["I", "'", "LL", " go"]
    assert cut("tekken", "HelloWorld") == ["Hello", "World"]
    assert cut("gpt-4o", "HelloWorld's") == ["Hello", "World's"]
    assert cut("qwen2", "a;\n\nb") == ["a", ";\n\n", "b"]


def test_flags():
    assert word_cut("never-heard-of") is None
    assert word_cut("llama-bpe").whole_words and not word_cut("qwen2").whole_words
    assert word_cut("qwen2").composed and not word_cut("gpt-2").composed
    assert word_cut("tekken").adds_bos and not word_cut("gpt-4o").adds_bos
