"""Frames of a streamed answer, built from pre-encoded parts: one token costs a string escape and a concatenation.

Knows nothing about connections. Invariant: the texts of a choice's frames, joined, are the whole answer's text; the
first chat frame of a choice carries the role, the last frame of a choice its finish_reason and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from penstock.api.answers import answer_head, stop_reason, usage_object
from penstock.api.logprobs import chat_logprobs, legacy_logprobs
from penstock.api.prepare import Prepared
from penstock.core import Event, Finish, Request

_encode: Final[Callable[[Any], str]] = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode

PING: Final = b": ping\n\n"


class Chunks:
    """The frames of one answer.

    Args:
        prepared: the request.
        id: of the answer.
        created: seconds since 1970.
    """

    def __init__(self, prepared: Prepared, id: str, created: int) -> None:
        self._prepared = prepared
        self._chat = prepared.chat
        kind = "chat.completion.chunk" if prepared.chat else "text_completion"
        head = _encode(answer_head(prepared, id, created, kind))[:-1]
        self._head = f"data: {head}"
        self._tail = ',"usage":null}\n\n' if prepared.include_usage else "}\n\n"
        self._choices: dict[int, _Choice] = {}
        self._finishes: list[list[Finish | None]] = [[None] * prepared.n for _ in prepared.requests]

    def frames(self, number: int, event: Event) -> bytes:
        """The frames of one event of prompt `number`; b"" when it shows nothing yet."""
        index = number * self._prepared.n + event.sample
        choice = self._choices.get(index)
        made = ""
        if choice is None:
            choice = self._choices[index] = _Choice(self._head, index, self._chat, self._tail)
            made = self._opening(number, choice)
        if event.text or event.logprobs:
            made += choice.text(event.text, self._logprobs(event, choice))
        if event.finish is not None:
            self._finishes[number][event.sample] = event.finish
            made += choice.finish(event.finish, self._prepared.requests[number])
        return made.encode()

    def usage_frame(self) -> bytes:
        """The chunk before the end mark that carries the token counts; b"" when it was not asked for."""
        if not self._prepared.include_usage:
            return b""
        return f'{self._head},"choices":[],"usage":{_encode(usage_object(self._finishes))}}}\n\n'.encode()

    def _opening(self, number: int, choice: _Choice) -> str:
        if self._chat:
            return choice.role()
        echo = self._prepared.echoes[number] if self._prepared.echoes is not None else ""
        return choice.text(echo, "null") if echo else ""

    def _logprobs(self, event: Event, choice: _Choice) -> str:
        count = self._prepared.logprobs
        if count is None or event.logprobs is None:
            return "null"
        tokenizer = self._prepared.model.tokenizer
        if self._chat:
            return _encode(chat_logprobs(event.logprobs, tokenizer, count))
        shown = legacy_logprobs(event.logprobs, event.tokens, tokenizer, count, choice.offset)
        return _encode(shown)


class _Choice:
    """The constant parts of one choice's frames."""

    __slots__ = ("_chat", "_open", "_tail", "offset")

    def __init__(self, head: str, index: int, chat: bool, tail: str) -> None:
        self._chat = chat
        self._open = f'{head},"choices":[{{"index":{index},' + ('"delta":' if chat else '"text":')
        self._tail = tail
        self.offset = 0

    def role(self) -> str:
        return f'{self._open}{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}]{self._tail}'

    def text(self, text: str, logprobs: str) -> str:
        self.offset += len(text)
        shown = f'{{"content":{_encode(text)}}}' if self._chat else _encode(text)
        return f'{self._open}{shown},"logprobs":{logprobs},"finish_reason":null}}]{self._tail}'

    def finish(self, finish: Finish, request: Request) -> str:
        shown = "{}" if self._chat else '""'
        return (
            f'{self._open}{shown},"logprobs":null,"finish_reason":"{finish.reason.value}",'
            f'"stop_reason":{_encode(stop_reason(finish, request))}}}]{self._tail}'
        )
