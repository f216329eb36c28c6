"""Answers read without a network: what counts as a chunk, an end, a failure, a count."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.answer import AnswerReader, seconds_of
from penstock.bench.records import Counted, Outcome, Seen
from penstock.core.limits import MAX_ERROR_BODY_BYTES

SSE = {b"content-type": b"text/event-stream; charset=utf-8"}
JSON = {b"content-type": b"application/json"}


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def text(piece: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": piece, "finish_reason": finish}]}


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def streamed(*events: Any, broken: str | None = None) -> tuple[Seen, str]:
    reader = AnswerReader(Seen(0, 0.0), keep_text=True)
    reader.head(200, SSE, 1.0)
    for index, one in enumerate(events):
        reader.body(event(one), 2.0 + index)
    reader.end(99.0, broken)
    return reader.seen, reader.text


def whole(status: int, body: bytes, headers: dict[bytes, bytes] | None = None) -> Seen:
    reader = AnswerReader(Seen(0, 0.0))
    reader.head(status, {**JSON, **(headers or {})}, 1.0)
    reader.body(body, 2.0)
    reader.end(3.0)
    return reader.seen


def test_only_chunks_that_show_something_count() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}
    seen, said = streamed(text(""), text("a"), text("bc"), text("", "length"), usage, b"[DONE]")
    assert seen.chunks_s == [3.0, 4.0]
    assert (seen.finish_s, seen.end_s, seen.headers_s) == (5.0, 99.0, 1.0)
    assert (seen.outcome, seen.finish_reason, said) == (Outcome.OK, "length", "abc")
    assert (seen.prompt_tokens, seen.output_tokens, seen.cached_tokens) == (7, 9, None)
    assert seen.counted is Counted.USAGE


def test_chunks_are_never_taken_for_tokens() -> None:
    seen, _ = streamed(text("a"), text("b", "stop"), b"[DONE]")
    assert seen.outcome is Outcome.OK
    assert seen.output_tokens is None and seen.counted is Counted.UNKNOWN


@pytest.mark.parametrize(
    "fields",
    [
        {"content": "x"},
        {"reasoning_content": "x"},
        {"reasoning": "x"},
        {"refusal": "x"},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
    ],
)
def test_what_a_chat_delta_shows(fields: dict[str, Any]) -> None:
    seen, _ = streamed(delta(role="assistant", content=""), delta(**fields), delta("stop"), b"[DONE]")
    assert seen.chunks_s == [3.0]


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ((text("a"), {"error": {"message": "out of luck", "code": None}}, b"[DONE]"), "out of luck"),
        ((text("a"), b"{not json"), "no JSON object"),
        ((text("a"), b"[" * 100_000), "no JSON object"),
        ((text("a"), b"[1]"), "no JSON object"),
        ((text("a"), text("b")), "ended before"),
        ((), "ended before"),
    ],
)
def test_a_stream_that_does_not_end_well_has_failed(events: tuple[Any, ...], why: str) -> None:
    seen, _ = streamed(*events)
    assert seen.outcome is Outcome.FAILED
    assert seen.error is not None and why in seen.error


def test_a_broken_connection_fails_what_was_not_done() -> None:
    seen, _ = streamed(text("a"), text("", "stop"), broken="it broke")
    assert (seen.outcome, seen.error) == (Outcome.FAILED, "it broke")
    seen, _ = streamed(text("a"), text("", "stop"), b"[DONE]", broken="it broke")
    assert (seen.outcome, seen.error) == (Outcome.OK, None)


def test_a_whole_answer_has_no_chunks() -> None:
    body = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}}
    seen = whole(200, json.dumps(body).encode())
    assert (seen.outcome, seen.chunks_s, seen.end_s, seen.output_tokens) == (Outcome.OK, [], 3.0, 3)


@pytest.mark.parametrize("body", [b"", b"nothing", b'{"error": {"message": "no"}}', b"[]"])
def test_a_whole_answer_can_fail(body: bytes) -> None:
    assert whole(200, body).outcome is Outcome.FAILED


@pytest.mark.parametrize("status", [429, 503])
def test_refusals_keep_their_retry_after(status: int) -> None:
    seen = whole(status, b'{"error": {"message": "queue full"}}', {b"retry-after": b"2.5"})
    assert (seen.outcome, seen.status, seen.retry_after_s, seen.error) == (Outcome.REFUSED, status, 2.5, "queue full")


def test_other_statuses_are_failures() -> None:
    seen = whole(500, b"<html>\n oops", {b"retry-after": b"2.5"})
    assert (seen.outcome, seen.retry_after_s, seen.error) == (Outcome.FAILED, None, "<html> oops")


def test_a_long_error_is_cut() -> None:
    reader = AnswerReader(Seen(0, 0.0))
    reader.head(500, {}, 1.0)
    for _ in range(3):
        reader.body(b"x" * MAX_ERROR_BODY_BYTES, 2.0)
    reader.end(3.0)
    assert reader.seen.outcome is Outcome.FAILED and len(reader.seen.error or "") == 300


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (b"7", 7.0),
        (b"0", 0.0),
        (b"-1", None),
        (b"nan", None),
        (b"inf", None),
        (b"Sat, 01 Aug 2026 10:00:30 GMT", 30.0),
        (b"soon", None),
        (b"\xff", None),
    ],
)
def test_retry_after_in_either_form(header: bytes, seconds: float | None) -> None:
    assert seconds_of(header, b"Sat, 01 Aug 2026 10:00:00 GMT") == seconds


def test_a_date_needs_a_date() -> None:
    assert seconds_of(b"Sat, 01 Aug 2026 10:00:30 GMT", None) is None
    assert seconds_of(None, None) is None


def test_usage_of_no_sense_is_no_count() -> None:
    usage = {"prompt_tokens": "7", "completion_tokens": True, "prompt_tokens_details": [1]}
    seen, _ = streamed(text("a", "stop"), {"choices": None, "usage": usage}, b"[DONE]")
    assert (seen.prompt_tokens, seen.output_tokens, seen.cached_tokens) == (None, None, None)
    assert seen.outcome is Outcome.OK


def test_a_strangers_words_are_one_harmless_line() -> None:
    seen = whole(500, json.dumps({"error": {"message": "a\n\x1b[2Jb\u202e"}}).encode())
    assert seen.error == "a ?[2Jb?"
    seen, _ = streamed(text("a", "\x1bstop"), b"[DONE]")
    assert seen.finish_reason == "?stop"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "message", "text", "content", "usage", "error", "finish_reason"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
EVENTS = st.one_of(JSON_VALUES.map(lambda value: json.dumps(value).encode()), st.binary(max_size=30))


@given(st.lists(EVENTS, max_size=5), st.booleans())
def test_no_answer_of_a_stranger_raises(events: list[bytes], sse: bool) -> None:
    reader = AnswerReader(Seen(0, 0.0), keep_text=True)
    reader.head(200, SSE if sse else JSON, 1.0)
    for one in events:
        reader.body(event(one) if sse else one, 2.0)
    reader.end(3.0)
    assert reader.seen.outcome in (Outcome.OK, Outcome.FAILED) and reader.seen.end_s == 3.0
    assert reader.seen.outcome is Outcome.OK or reader.seen.error
    assert isinstance(reader.text, str)
