"""Strict types: nothing is coerced, and the field at fault is named."""

from __future__ import annotations

import pytest

from penstock.api.fields import ChatBody, CompletionBody, DetokenizeBody, check_fields
from penstock.api.strict_json import parse_object
from penstock.core import InvalidRequest, limits

GOOD = {"model": "m", "prompt": "p"}


def refused(kind, **given):
    with pytest.raises(InvalidRequest) as caught:
        check_fields(kind, {**GOOD, **given} if kind is CompletionBody else given)
    return caught.value


@pytest.mark.parametrize("value", [True, "5", 1.5, [], {}])
@pytest.mark.parametrize("name", ["max_tokens", "n", "seed", "top_k", "logprobs"])
def test_integers_are_integers(name, value):
    assert refused(CompletionBody, **{name: value}).param == name


@pytest.mark.parametrize("value", [True, "0.5", []])
@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "timeout_s"])
def test_numbers_are_numbers(name, value):
    assert refused(CompletionBody, **{name: value}).param == name


def test_an_integer_is_a_number_and_null_is_the_default():
    asked = check_fields(CompletionBody, {**GOOD, "temperature": 1, "top_p": None})
    assert (asked.temperature, asked.top_p) == (1.0, None)


@pytest.mark.parametrize("number", [b"NaN", b"1e999", b"-Infinity", b"9" * 5000])
def test_a_number_that_json_cannot_hold_names_its_field(number):
    given = parse_object(b'{"model": "m", "prompt": "p", "temperature": ' + number + b"}")
    with pytest.raises(InvalidRequest) as caught:
        check_fields(CompletionBody, given)
    assert caught.value.param == "temperature"
    assert "number" in caught.value.message


def test_an_unknown_field_has_its_own_code():
    error = refused(CompletionBody, temprature=1.0)
    assert (error.code, error.param) == ("unknown_parameter", "temprature")


def test_the_place_within_messages_is_named_without_values():
    error = refused(ChatBody, model="m", messages=[{"role": "user", "content": "x"}, {"role": "king", "content": "s3"}])
    assert error.param == "messages"
    assert "messages.1.role" in error.message and "king" not in error.message and "s3" not in error.message


def test_a_long_list_of_wrong_ids_stops_at_the_first():
    error = refused(DetokenizeBody, tokens=["x"] * 100_000)
    assert error.param == "tokens" and len(error.message) < 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (5, "messages.0.content must be a string or a list of parts."),
        ({}, "messages.0.content must be a string or a list of parts."),
        ([5], "messages.0.content.0 must be an object."),
        ([{"type": "text", "text": ""}] * (limits.MAX_MESSAGES + 1), "messages.0.content is too long."),
    ],
)
def test_content_that_is_neither_text_nor_parts(content, said):
    error = refused(ChatBody, model="m", messages=[{"role": "user", "content": content}])
    assert error.message == said
