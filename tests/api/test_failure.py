"""What a failure says to the client, and what it never says to anybody."""

from __future__ import annotations

import json
import logging

import pytest
from starlette.exceptions import HTTPException

from penstock.api.failure import error_body, error_frame, error_headers, to_penstock
from penstock.core import DeadlineExceeded, Draining, PayloadTooLarge, QueueFull, ServerError, Unauthorized

SECRET = "the user's own words"


def raised():
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        return error


def test_a_foreign_exception_is_logged_by_class_and_place_only(caplog):
    with caplog.at_level(logging.DEBUG):
        seen = to_penstock(raised(), "req-1")
    assert isinstance(seen, ServerError) and seen.status == 500 and seen.should_retry is False
    assert "req-1" in str(seen) and SECRET not in str(seen)
    (record,) = caplog.records
    shown = logging.Formatter().format(record)
    assert "KeyError" in shown and "test_failure.py" in shown and "req-1" in shown
    assert SECRET not in shown and "Traceback" not in shown and "/" not in shown


def test_our_own_errors_pass_unchanged_and_unlogged(caplog):
    error = QueueFull("full.")
    assert to_penstock(error, "r") is error
    assert not caplog.records


@pytest.mark.parametrize(("status", "shown"), [(404, 404), (405, 405), (418, 400)])
def test_the_frameworks_own_answers_follow_the_contract(status, shown):
    assert to_penstock(HTTPException(status), "r").status == shown


def test_a_frame_is_the_error_then_the_end_mark():
    first, second, rest = error_frame(DeadlineExceeded("too late.")).split(b"\n\n")
    assert json.loads(first.removeprefix(b"data: "))["error"]["code"] == "deadline_exceeded"
    assert (second, rest) == (b"data: [DONE]", b"")


def test_a_body_stays_one_frame_whatever_the_text():
    assert b"\n" not in error_body(ServerError("one\ntwo\r\n\r\ndata: x"))


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (QueueFull("x", retry_after_s=0.2), (b"retry-after", b"1")),
        (QueueFull("x", retry_after_s=1.2), (b"retry-after", b"2")),
        (ServerError("x", should_retry=False), (b"x-should-retry", b"false")),
        (Unauthorized("x"), (b"www-authenticate", b"Bearer")),
        (PayloadTooLarge("x"), (b"connection", b"close")),
        (Draining("x"), (b"connection", b"close")),
    ],
)
def test_headers_beside_the_body(error, header):
    assert header in error_headers(error)
    assert header not in error_headers(ServerError("x"))
