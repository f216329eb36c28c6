"""The strict parser against the standard one: the same values where both agree to read, InvalidRequest otherwise."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.strict_json import BadNumber, parse_object
from penstock.core import InvalidRequest

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plain = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e300, 1e300) | text
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4))


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(text, values, max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_reads_what_json_writes(value, ascii_only, indent):
    assert parse_object(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()) == value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | text.map(str.encode) | st.text('{}[]":,\\u0d8a1e9-. ', max_size=40).map(str.encode))
def test_any_bytes_give_a_dict_or_an_invalid_request(body):
    try:
        value = parse_object(body)
    except InvalidRequest:
        return
    assert isinstance(value, dict)
    json.dumps(value, ensure_ascii=False, default=str).encode()  # no lone surrogate came through


def test_numbers_that_no_field_can_hold_keep_their_place():
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 21, "1" * 5000):
        assert isinstance(parse_object(b'{"a":%s}' % number.encode())["a"], BadNumber)
    assert parse_object(b'{"a":18446744073709551615}') == {"a": 2**64 - 1}


def test_brackets_and_quotes_within_text_are_no_structure():
    hostile = '"[{' * 150_000 + "\\" * 9
    assert parse_object(json.dumps({"a": hostile}).encode()) == {"a": hostile}
    with pytest.raises(InvalidRequest, match="lists and objects"):
        parse_object(b'{"a":[' + b"[]," * 150_000 + b"1]}")
    with pytest.raises(InvalidRequest, match="nested"):
        parse_object(b'{"a":' + b"[" * 70 + b"]" * 70 + b"}")
