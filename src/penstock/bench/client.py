"""Sends requests to an OpenAI-compatible endpoint and notes what it sees of each answer.

Knows nothing about when to send, or what the times mean. Invariant: a request's bytes are made before its time comes,
and its Seen is filled whatever happens to it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import SplitResult, urlsplit

from penstock.bench.answer import AnswerReader
from penstock.bench.connection import Connection
from penstock.bench.records import Ask, Outcome, Seen
from penstock.core import ConfigError

DEFAULT_PORTS = {"http": 80, "https": 443}
OUR_FAULTS = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM)


class Route(str, Enum):
    """The two routes that generate text."""

    COMPLETIONS = "completions"
    CHAT = "chat/completions"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go, and what all of them say.

    Attributes:
        url: the server's, such as "http://127.0.0.1:8000" ("/v1" is added to one without a path).
        model: name in the API.
        route: completions, or chat.
        stream: whether answers are streamed, with usage at their end.
        api_key: sent as a bearer token; never printed.
        timeout_s: from the send to the end of the answer, connecting included.
        body: fields that every request has besides, such as the temperature; null removes one of ours.
    """

    url: str
    model: str
    route: Route = Route.COMPLETIONS
    stream: bool = True
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 600.0
    body: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0.0})

    @property
    def parts(self) -> SplitResult:
        """The URL with "/v1" where it had no path.

        Raises:
            ConfigError: it is no HTTP URL.
        """
        hint = "give one such as http://127.0.0.1:8000."
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{self.url!r} is no URL: {error}.", param="url", hint=hint) from None
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname or port == 0 or not parts.netloc.isascii():
            raise ConfigError(f"{self.url!r} is no HTTP URL.", param="url", hint=hint)
        if parts.query or parts.username or " " in self.url:
            raise ConfigError(f"{self.url!r} has a query, a name or a space.", param="url", hint=hint)
        return parts._replace(path=parts.path.rstrip("/") or "/v1")


class Client:
    """Connections to one endpoint, kept alive and opened as needed: their number limits nothing.

    Args:
        endpoint: where requests go.
        clock: monotonic seconds; everything seen is on it.
        keep_text: whether `send` returns the answer's text.

    Raises:
        ConfigError: the URL or the key can't be used.
    """

    def __init__(self, endpoint: Endpoint, clock: Callable[[], float], *, keep_text: bool = False) -> None:
        parts = endpoint.parts
        key = endpoint.api_key
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ConfigError("the API key has characters that no header can hold.", param="api_key")
        self.endpoint = endpoint
        self.num_opened = 0
        self.num_retried = 0
        self.num_own_faults = 0
        self._clock = clock
        self._keep_text = keep_text
        self._host = parts.hostname or ""
        self._port = parts.port or DEFAULT_PORTS[parts.scheme]
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        authority = parts.netloc
        self._head = (
            f"POST {parts.path}/{endpoint.route.value} HTTP/1.1\r\nHost: {authority}\r\n"
            "Content-Type: application/json\r\nUser-Agent: penstock-bench\r\n"
            + (f"Authorization: Bearer {key}\r\n" if key is not None else "")
        ).encode("ascii")
        self._kept: list[Connection] = []

    def request(self, ask: Ask) -> bytes:
        """The bytes of a request, head and body.

        Raises:
            ConfigError: the route takes no prompt of this kind.
        """
        body = json.dumps(request_body(self.endpoint, ask), separators=(",", ":")).encode()
        return self._head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    async def warm(self, connections: int) -> None:
        """Opens connections ahead, so that no request waits for one.

        Raises:
            ConfigError: the server can't be reached.
        """
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):
                self._kept += await asyncio.gather(*(self._open() for _ in range(connections)))
        except (OSError, TimeoutError) as error:
            raise ConfigError(
                f"no connection to {self._host}:{self._port}: {error or 'timed out'}.", param="url", hint="is it up?"
            ) from None

    async def send(self, request: bytes, seen: Seen, answer: list[str] | None = None) -> str:
        """Sends and waits for the end of the answer; returns its text where texts are kept.

        Pieces of the answer without its reasoning go to `answer`. Whatever happens is in `seen`, and nothing is raised
        but a cancellation, which leaves it as unfinished.
        """
        reader = AnswerReader(seen, keep_text=self._keep_text, answer=answer)
        try:
            async with asyncio.timeout(self.endpoint.timeout_s):
                await self._exchange(request, reader)
        except TimeoutError:
            seen.outcome, seen.error = Outcome.TIMEOUT, f"no end within {self.endpoint.timeout_s:g} s"
            seen.end_s = self._clock()
        except OSError as error:
            self.num_own_faults += error.errno in OUR_FAULTS
            seen.outcome, seen.error = Outcome.FAILED, f"no connection: {error}"[:300]
            seen.end_s = self._clock()
        except asyncio.CancelledError:
            seen.outcome, seen.error = Outcome.UNFINISHED, "the run ended first"
            seen.end_s = self._clock()
            raise
        return reader.text

    def close(self) -> None:
        """Drops what is kept open."""
        for connection in self._kept:
            connection.abort()
        self._kept.clear()

    async def _exchange(self, request: bytes, reader: AnswerReader) -> None:
        connection = self._take()
        while True:
            kept = connection is not None
            if connection is None:
                begun = self._clock()
                connection = await self._open()
                reader.seen.connect_s += self._clock() - begun
            if reader.seen.sent_s is None:
                reader.seen.sent_s = self._clock()
            if await self._answered(connection, request, reader):
                return
            if not kept:
                reader.seen.outcome, reader.seen.error = Outcome.FAILED, "the connection closed without an answer"
                reader.seen.end_s = self._clock()
                return
            self.num_retried += 1  # the server closed an idle connection just then: nothing was answered
            connection = None

    async def _answered(self, connection: Connection, request: bytes, reader: AnswerReader) -> bool:
        """Whether anything came back; the connection is kept if it can be."""
        try:
            answered = await connection.exchange(request, reader)
        except asyncio.CancelledError:
            connection.abort()
            raise
        if connection.idle:
            self._kept.append(connection)
        return answered

    def _take(self) -> Connection | None:
        """The connection used last among those kept and still open."""
        while self._kept:
            connection = self._kept.pop()
            if connection.idle:
                return connection
        return None

    async def _open(self) -> Connection:
        self.num_opened += 1
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self._clock), self._host, self._port, ssl=self._tls
        )
        return connection


def request_body(endpoint: Endpoint, ask: Ask) -> dict[str, Any]:
    """The JSON body of a request.

    Raises:
        ConfigError: the route takes no prompt of this kind.
    """
    body: dict[str, Any] = {"model": endpoint.model, "max_tokens": ask.max_tokens, "stream": endpoint.stream}
    if endpoint.stream:
        body["stream_options"] = {"include_usage": True}
    if ask.ignore_eos:
        body["ignore_eos"] = True
    messages = isinstance(ask.prompt, tuple) and bool(ask.prompt) and isinstance(ask.prompt[0], dict)
    if endpoint.route is Route.COMPLETIONS:
        if messages:
            raise ConfigError("completions take no messages.", param="route", hint="use the chat route.")
        body["prompt"] = ask.prompt
    elif isinstance(ask.prompt, str):
        body["messages"] = [{"role": "user", "content": ask.prompt}]
    elif messages:
        body["messages"] = ask.prompt
    else:
        raise ConfigError("chat takes no token ids.", param="route", hint="use the completions route.")
    body.update(ask.extra)
    body.update(endpoint.body)
    return {name: value for name, value in body.items() if value is not None}
