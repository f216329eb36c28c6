from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core import ModelFileError
from penstock.text.vocab import ControlToken, ControlTokens

CONTROLS = ControlTokens(
    [ControlToken(0, "<|a|>"), ControlToken(1, "<|a|>b"), ControlToken(2, "<s>"), ControlToken(9, "")]
)


def test_split_takes_the_longest_and_gives_offsets():
    assert list(CONTROLS.split("x<|a|>bc<s>")) == [(0, "x", 1), (7, "c", 2), (11, "", None)]
    assert CONTROLS.ids == {0, 1, 2, 9}


def test_white_space_and_word_borders():
    controls = ControlTokens(
        [
            ControlToken(0, "<l>", lstrip=True),
            ControlToken(1, "<r>", rstrip=True),
            ControlToken(2, "W", single_word=True),
        ]
    )
    assert [(chunk, id) for _, chunk, id in controls.split("a  <l> b<r>  c W xW")] == [
        ("a", 0), (" b", 1), ("c ", 2), (" xW", None),
    ]  # fmt: skip


def test_no_control_tokens_find_nothing():
    empty = ControlTokens([])
    assert list(empty.split("<s>")) == [(0, "<s>", None)]
    assert empty.risky("<s>") == []


@given(
    st.text(alphabet="<|a>bs", max_size=12),
    st.text(alphabet="<|a>bs", max_size=6),
    st.text(alphabet="<|a>bs", max_size=6),
)
def test_risky_spans_leave_nothing_that_neighbours_could_complete(text, before, after):
    spans = CONTROLS.risky(text)
    assert spans == sorted(spans)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    kept, at = "", 0
    for start, end in spans:
        kept += text[at:start] + "\0"
        at = end
    kept += text[at:]
    whole = before + "\1" + after  # what stands around, itself free of control tokens
    if any(CONTROLS.occurrences(before)) or any(CONTROLS.occurrences(after)) or not text:
        return
    found = list(CONTROLS.occurrences(whole.replace("\1", kept)))
    inside = range(len(before), len(before) + len(kept))
    assert not any(start in inside or end - 1 in inside for start, end in found)


def test_the_property_fails_without_edges():
    """The control: only whole spellings marked would let neighbours complete one."""
    assert not list(CONTROLS.occurrences("s>")) and list(CONTROLS.occurrences("<" + "s>"))
    assert CONTROLS.risky("s>") == [(0, 2)]
    assert CONTROLS.risky("x <|a") == [(2, 5)]


def test_spellings_whose_beginnings_would_take_the_machine_are_refused():
    with pytest.raises(ModelFileError, match="a control token of 100001 characters; at most 512"):
        ControlTokens([ControlToken(0, "<" + "[" * 100_000)])
    many = [ControlToken(id, f"{id:0512}") for id in range(300)]
    with pytest.raises(ModelFileError, match="300 control tokens with 39321600 characters in their beginnings"):
        ControlTokens(many)
    assert len(ControlTokens(many[:200]).ids) == 200
    assert len(ControlTokens([ControlToken(id, f"<unused{id}>") for id in range(20_000)]).ids) == 20_000
