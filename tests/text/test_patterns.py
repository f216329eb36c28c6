import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core import ModelFileError
from penstock.text.patterns import check_pattern
from penstock.text.pretokenizers import known_kinds, word_cut

KIMI = (
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize("kind", known_kinds())
def test_known_cuts_may_run(kind):
    for pattern in word_cut(kind).patterns:
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        KIMI,
        r" {2,}",
        r"[^\n]+|[\n]+",
        r"\A +| +\z",
        r"<\|startoftext\|>|'s|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        r"[]a]+",
        r"[^]a]+",
        r"(?<name>a)b?",
        r"(?>a+)b",
        r"a++b",
        r"(?<=x)y|(?<!z)w",
        r"(?i)abc",
        r"\x{41}\u0041\p{L}",
        "",
    ],
)
def test_other_published_patterns_may_run(pattern):
    check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(a+)+$", "repeats something that varies"),
        (r"(a|a)*b", "repeats something that varies"),
        (r"(a?a?)*b", "repeats something that varies"),
        (r"(a{0,50})+", "repeats something that varies"),
        (r"a+*b", "repeats something that varies"),
        (r"a{1,5}+b", "repeats something that varies"),
        (r"(?:(?:a*)b?){2}", "repeats something that varies"),
        ("a?" * 30 + "a" * 30, "chooses 30 times"),
        (r"a*a*a*b", "repeats 3 times"),
        (r"(a|ab)(c|bcd)" * 5, "chooses 10 times"),
        ("a{1,30}" * 4, "repeats 4 times"),
        (r"(.)\1", "refers back"),
        (r"(?<n>a\g<n>?b)", "refers back"),
        (r"(?~abc)", "refers back"),
        (r"(?x)( a + ) +", "refers back"),
        ("(", "parenthesis"),
        (")", "parenthesis"),
        ("[a", "bracket"),
        ("a" * 5000, "5000 characters"),
        ("(" * 20 + "a" + ")" * 20, "deep"),
    ],
)
def test_patterns_that_could_run_for_ever_are_refused(pattern, reason):
    with pytest.raises(ModelFileError, match=reason) as caught:
        check_pattern(pattern)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="ab()[]{}|*+?\\^$.,1-9&<=!:x\n", max_size=40))
@settings(max_examples=400, deadline=None)
def test_any_pattern_passes_or_is_refused(pattern):
    try:
        check_pattern(pattern)
    except ModelFileError as error:
        assert "\n" not in str(error)


def test_what_passes_stays_quick():
    """The dearest patterns that pass end on a text made against them."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    for pattern in (r"a*a*b", r"a?a?a?a?a?a?a*b", r"(a|b)(a|b)(a|b)a*a*$"):
        check_pattern(pattern)
        assert Split(Regex(pattern), behavior="isolated").pre_tokenize_str("a" * 400 + "c")
