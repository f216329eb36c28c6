"""What a run asks for and what it saw of each request: the data that load, definitions, records and reports share.

Knows nothing about HTTP, arrivals or statistics. Invariant: every time is in seconds of one monotonic clock, from the
run's start; nothing here is derived, so that every metric can be computed again from a record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to be sent.

    Attributes:
        id: unique in the run.
        arrival_s: intended arrival; None in a closed loop, where a request arrives when its turn comes.
        prompt: text, token ids, or chat messages.
        prompt_tokens: length that the prompt was made to have by the server's tokenizer, or None where nobody counted.
        max_tokens: output asked for.
        ignore_eos: whether the output shall be exactly that long.
        session, turn: the conversation it belongs to and its place there; turn 0 without a session.
        think_s: pause after the session's turn before this one has ended.
        extra: fields that this request's body has besides, such as its tools.
        said: what this turn adds behind the turn before and the server's own answer to that; None sends the prompt as
            it stands.
    """

    id: int
    arrival_s: float | None
    prompt: str | tuple[int, ...] | tuple[dict[str, Any], ...]
    prompt_tokens: int | None
    max_tokens: int
    ignore_eos: bool = True
    session: int | None = None
    turn: int = 0
    think_s: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    said: str | tuple[dict[str, Any], ...] | None = None


class Outcome(str, Enum):
    """How a request ended, as the client saw it."""

    OK = "ok"  # its last token and end came
    REFUSED = "refused"  # 429 or 503 before any token
    FAILED = "failed"  # another status, an error within the stream, or a broken connection
    TIMEOUT = "timeout"  # the client gave up
    UNFINISHED = "unfinished"  # the run ended first


class Counted(str, Enum):
    """Where the number of output tokens comes from; chunks are never taken for tokens."""

    USAGE = "usage"  # the server's own count
    TOKENIZER = "tokenizer"  # the text, cut by the server's or a local tokenizer
    UNKNOWN = "unknown"  # nobody could say: the request has no per-token metric


@dataclass(slots=True)
class Seen:
    """What the client saw of one request.

    Attributes:
        id: the ask's.
        intended_s: when it should have been sent.
        sent_s: when its first byte was written; None if it never was.
        connect_s: what opening a connection for it took before that; 0 where a kept one served.
        headers_s: when the status line came.
        chunks_s: when each chunk with at least one character (or tool-call delta) came, in order.
        finish_s: when the server said why the answer ends: its last token is out by then, shown or not.
        end_s: when the answer had ended, whatever the outcome.
        outcome: how.
        status: HTTP status, 0 if none came.
        retry_after_s: a refusal's Retry-After.
        error: a line for people.
        prompt_tokens, cached_tokens, output_tokens: from usage, or counted; None where unknown.
        counted: source of output_tokens.
        finish_reason: the server's.
    """

    id: int
    intended_s: float
    sent_s: float | None = None
    connect_s: float = 0.0
    headers_s: float | None = None
    chunks_s: list[float] = field(default_factory=list)
    finish_s: float | None = None
    end_s: float | None = None
    outcome: Outcome = Outcome.UNFINISHED
    status: int = 0
    retry_after_s: float | None = None
    error: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    counted: Counted = Counted.UNKNOWN
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a run that counts: requests whose intended arrival lies within [begin_s, end_s)."""

    begin_s: float
    end_s: float
