import pytest

from penstock.text.pretokenizers import composes, known_kinds, pre_tokenizer, takes_whole_words

TEXT = "Hello  world's 12345 x\n\n  y!"


def cut(kind, text):
    return [piece.replace("Ġ", " ").replace("Ċ", "\n") for piece, _ in pre_tokenizer(kind).pre_tokenize_str(text)]


def test_every_kind_keeps_every_character():
    for kind in known_kinds():
        assert "".join(cut(kind, TEXT)) == TEXT


@pytest.mark.parametrize(
    ("kind", "digits"),
    [
        ("gpt-2", [" 12345"]),
        ("default", [" 12345"]),
        ("llama-bpe", [" ", "123", "45"]),
        ("qwen2", [" ", "1", "2", "3", "4", "5"]),
        ("smollm", [" ", "1", "2", "3", "4", "5"]),
        ("tekken", [" ", "1", "2", "3", "4", "5"]),
        ("deepseek-coder", [" ", "1", "2", "3", "4", "5"]),
    ],
)
def test_digits(kind, digits):
    assert cut(kind, "x 12345")[1:] == digits


def test_gpt2_equals_the_library():
    from tokenizers.pre_tokenizers import ByteLevel

    theirs = [piece for piece, _ in ByteLevel(add_prefix_space=False).pre_tokenize_str(TEXT)]
    assert [piece for piece, _ in pre_tokenizer("gpt-2").pre_tokenize_str(TEXT)] == theirs
    assert [piece for piece, _ in pre_tokenizer("qwen2").pre_tokenize_str(TEXT)] != theirs


def test_case_and_newlines():
    assert cut("llama-bpe", "I'LL go") == ["I", "'LL", " go"]
    assert cut("gpt-2", "I'LL go") == ["I", "'", "LL", " go"]
    assert cut("tekken", "HelloWorld") == ["Hello", "World"]
    assert cut("qwen2", "a;\n\nb") == ["a", ";\n\n", "b"]


def test_unknown_kind():
    assert pre_tokenizer("never-heard-of") is None
    assert takes_whole_words("llama-bpe") and not takes_whole_words("qwen2")
    assert composes("qwen2") and not composes("gpt-2")
