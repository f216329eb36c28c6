"""Both tables: neutral values pass, anything else is refused by name, and no field stands in two places."""

from __future__ import annotations

import pytest

from penstock.api.fields import ChatBody, CompletionBody
from penstock.api.unsupported import IGNORED, REFUSED, honoured_fields
from penstock.core import InvalidRequest

FIELDS = frozenset(CompletionBody.model_fields)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_null_and_the_neutral_values_ask_for_nothing(name):
    for value in (None, *REFUSED[name]):
        assert honoured_fields({name: value}, FIELDS) == {}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_another_value_is_refused_by_name(name):
    with pytest.raises(InvalidRequest) as caught:
        honoured_fields({name: {"something": "else"}}, FIELDS)
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


def test_false_is_not_zero_and_one_is_not_true():
    with pytest.raises(InvalidRequest):
        honoured_fields({"use_beam_search": 0}, FIELDS)
    with pytest.raises(InvalidRequest):
        honoured_fields({"length_penalty": True}, FIELDS)


def test_ignored_fields_go_whatever_they_hold():
    assert honoured_fields({name: ["x"] for name in IGNORED}, FIELDS) == {}


def test_unknown_fields_are_left_for_the_strict_check():
    assert honoured_fields({"prompt": "p", "surprise": 1}, FIELDS) == {"prompt": "p", "surprise": 1}


def test_best_of_must_be_n():
    assert honoured_fields({"best_of": 3, "n": 3}, FIELDS) == {"n": 3}
    assert honoured_fields({"best_of": 1}, FIELDS) == {}
    for body in ({"best_of": 2}, {"best_of": True}, {"best_of": 3, "n": 2}):
        with pytest.raises(InvalidRequest, match="best_of"):
            honoured_fields(body, FIELDS)


def test_no_field_is_in_two_tables():
    honoured = FIELDS | frozenset(ChatBody.model_fields)
    assert not IGNORED & REFUSED.keys()
    assert not honoured & IGNORED
    assert honoured & REFUSED.keys() == {"parallel_tool_calls", "reasoning_effort", "tool_choice", "tools"}
    assert not FIELDS & REFUSED.keys()


def test_a_field_that_a_route_honours_is_left_to_it():
    chat = frozenset(ChatBody.model_fields)
    assert honoured_fields({"tools": [5], "tool_choice": "required"}, chat) == {"tools": [5], "tool_choice": "required"}
