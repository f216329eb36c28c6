"""Reads one answer of an OpenAI-compatible server, streamed or whole, into what was seen of its request.

Knows nothing about sockets or schedules. Invariant: a time is the time at which the bytes came, handed in by who read
them; a chunk counts only when it shows something, and tokens are only ever counted by the server's usage.
"""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from typing import Any

from penstock.bench.records import Counted, Outcome, Seen
from penstock.bench.sse import EventStream
from penstock.core.limits import MAX_ANSWER_BYTES, MAX_ERROR_BODY_BYTES

REFUSALS = (429, 503)
SHOWN = ("content", "reasoning_content", "reasoning", "refusal")
MAX_LINE_CHARS = 300


class AnswerReader:
    """One answer: `head`, then `body` for every read, then `end`; `seen` has the rest.

    Args:
        seen: filled while the answer comes.
        keep_text: whether to keep the text, for a count by a tokenizer.
        answer: takes the pieces of the answer without its reasoning.
    """

    __slots__ = ("_answer", "_body", "_broken", "_done", "_events", "_keep_text", "_parts", "_size", "seen")

    def __init__(self, seen: Seen, *, keep_text: bool = False, answer: list[str] | None = None) -> None:
        self.seen = seen
        self._keep_text = keep_text
        self._answer = answer
        self._parts: list[str] = []
        self._body: list[bytes] = []
        self._size = 0
        self._events: EventStream | None = None
        self._done = False
        self._broken = False

    @property
    def text(self) -> str:
        """What was kept of the answer's text."""
        return "".join(self._parts)

    def head(self, status: int, headers: dict[bytes, bytes], now: float) -> None:
        """Takes the status and the headers, their names in lower case."""
        self.seen.status = status
        self.seen.headers_s = now
        if status in REFUSALS:
            self.seen.retry_after_s = seconds_of(headers.get(b"retry-after"), headers.get(b"date"))
        if status == 200 and headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            self._events = EventStream()

    def body(self, data: bytes, now: float) -> None:
        """Takes bytes of the body that came at `now`."""
        self._size += len(data)
        if self._size > (MAX_ANSWER_BYTES if self.seen.status == 200 else MAX_ERROR_BODY_BYTES):
            if self.seen.status == 200:
                self.fail(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        elif self._events is None:
            self._body.append(data)
        else:
            try:
                events = self._events.feed(data)
            except ValueError as error:
                self.fail(str(error))
            else:
                for event in events:
                    self._event(event, now)

    def end(self, now: float, broken: str | None = None) -> None:
        """Settles the outcome: the body has ended, or `broken` says how the connection did before."""
        seen = self.seen
        if self._events is not None and broken is None:
            for event in self._events.flush():
                self._event(event, now)
        seen.end_s = now
        if self._broken:
            seen.outcome = Outcome.FAILED
        elif broken is not None and not self._done:
            seen.outcome, seen.error = Outcome.FAILED, broken
        elif seen.status in REFUSALS:
            seen.outcome, seen.error = Outcome.REFUSED, line_of(b"".join(self._body))
        elif seen.status != 200:
            seen.outcome, seen.error = Outcome.FAILED, line_of(b"".join(self._body))
        elif self._events is None:
            self._whole(now)
        elif self._done or seen.finish_reason is not None:
            seen.outcome = Outcome.OK
        else:
            seen.outcome, seen.error = Outcome.FAILED, "the stream ended before its answer did"

    def fail(self, why: str) -> None:
        """Marks the answer as failed; the first reason stays."""
        if not self._broken:
            self.seen.error = why[:MAX_LINE_CHARS]
        self._broken = True

    def _event(self, data: bytes, now: float) -> None:
        if self._done or self._broken:
            return
        if data == b"[DONE]":
            self._done = True
            return
        found = object_of(data)
        if found is None:
            self.fail("an event holds no JSON object")
            return
        if found.get("error"):
            self.fail(message_of(found))
            return
        if self._choices(found, "delta", now):
            self.seen.chunks_s.append(now)
        self._usage(found.get("usage"))

    def _whole(self, now: float) -> None:
        seen = self.seen
        found = object_of(b"".join(self._body))
        if found is None or found.get("error"):
            seen.outcome = Outcome.FAILED
            seen.error = "the answer is no JSON object" if found is None else message_of(found)
            return
        self._choices(found, "message", now)
        self._usage(found.get("usage"))
        seen.outcome = Outcome.OK

    def _choices(self, found: dict[str, Any], part: str, now: float) -> bool:
        """Whether the choices show something; notes the finish and the text."""
        shown = False
        choices = found.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            text, calls = shown_by(choice, part)
            shown = shown or bool(text) or calls
            if text and self._keep_text:
                self._parts.append(text)
            if self._answer is not None:
                self._answer.append(answered_by(choice, part))
            reason = choice.get("finish_reason")
            if reason is not None and self.seen.finish_reason is None:
                self.seen.finish_reason, self.seen.finish_s = printable(str(reason)), now
        return shown

    def _usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        seen = self.seen
        seen.prompt_tokens = count_of(usage, "prompt_tokens")
        seen.output_tokens = count_of(usage, "completion_tokens")
        details = usage.get("prompt_tokens_details")
        seen.cached_tokens = count_of(details, "cached_tokens") if isinstance(details, dict) else None
        if seen.output_tokens is not None:
            seen.counted = Counted.USAGE


def shown_by(choice: dict[str, Any], part: str) -> tuple[str, bool]:
    """A choice's text, answer and reasoning alike, and whether it calls tools.

    Args:
        choice: of a completion, a chat answer, or a chunk of either.
        part: where a chat's stands: "delta" or "message".
    """
    text = choice.get("text")
    if isinstance(text, str):
        return text, False
    delta = choice.get(part)
    if not isinstance(delta, dict):
        return "", False
    pieces = [piece for name in SHOWN if isinstance(piece := delta.get(name), str)]
    return "".join(pieces), bool(delta.get("tool_calls"))


def answered_by(choice: dict[str, Any], part: str) -> str:
    """A choice's answer without its reasoning: what the next turn of a conversation holds of it."""
    delta = choice.get(part)
    found = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    return found if isinstance(found, str) else ""


def object_of(data: bytes) -> dict[str, Any] | None:
    """The JSON object that the bytes spell, or None."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def count_of(usage: dict[str, Any], name: str) -> int | None:
    """A count of usage, None where it is no sensible number."""
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def message_of(found: dict[str, Any]) -> str:
    """The message of an error object, in any of its usual places."""
    error = found.get("error") or found.get("detail") or found.get("message") or found
    if isinstance(error, dict):
        error = error.get("message") or error
    return printable(str(error))


def line_of(body: bytes) -> str:
    """One line of an error's body: its message where it is JSON."""
    found = object_of(body)
    text = message_of(found) if found is not None else body[: 4 * MAX_LINE_CHARS].decode("utf-8", "replace")
    return printable(text)


def printable(text: str) -> str:
    """A stranger's text as one short line with nothing in it that a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text[: 4 * MAX_LINE_CHARS].split()))[
        :MAX_LINE_CHARS
    ]


def seconds_of(retry_after: bytes | None, date: bytes | None) -> float | None:
    """Retry-After in seconds; one that is a date is taken from the answer's own Date, never from a local clock."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            if date is None:
                return None
            later = parsedate_to_datetime(retry_after.decode("latin-1"))
            seconds = (later - parsedate_to_datetime(date.decode("latin-1"))).total_seconds()
        except (TypeError, ValueError):
            return None
    return seconds if 0 <= seconds < float("inf") else None
