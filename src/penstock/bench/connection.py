"""One HTTP/1.1 connection of the load generator: writes a request, hands the answer's bytes on with their time.

Knows nothing about JSON, prompts or schedules. Invariant: bytes are stamped when the event loop hands them over, before
anything is parsed; a connection that is not `idle` is never used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from penstock.core.limits import MAX_HEADER_BYTES, MAX_HEADER_COUNT


class Reader(Protocol):
    """Who takes an answer."""

    def head(self, status: int, headers: dict[bytes, bytes], now: float) -> None:
        """Takes the status and the headers."""

    def body(self, data: bytes, now: float) -> None:
        """Takes bytes of the body."""

    def end(self, now: float, broken: str | None = None) -> None:
        """The answer is over."""


class Connection(asyncio.Protocol):
    """A connection with at most one exchange at a time.

    Args:
        clock: seconds of the run's monotonic clock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._done: asyncio.Future[bool] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._now = 0.0
        self._in_body = False
        self._got_bytes = False

    @property
    def idle(self) -> bool:
        """Whether it is open and free."""
        return self._transport is not None and not self._transport.is_closing() and self._reader is None

    def exchange(self, request: bytes, reader: Reader) -> asyncio.Future[bool]:
        """Sends; the future's value is whether anything came back: if not, nobody has told the reader a thing."""
        assert self._transport is not None and self._reader is None
        self._reader = reader
        self._parser = httptools.HttpResponseParser(self)
        self._begin_message()
        self._got_bytes = False
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._done

    def abort(self) -> None:
        """Drops the connection and, without a word to its reader, the exchange."""
        self._reader = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands (asyncio's call)."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        """Bytes have come (asyncio's call)."""
        self._now = self._clock()
        if self._reader is None or self._parser is None:
            self.abort()  # bytes that nobody asked for
            return
        self._got_bytes = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, ValueError) as error:
            self._finish(f"no HTTP answer: {error.__cause__ or error}"[:200], keep=False)

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone (asyncio's call)."""
        self._now = self._clock()
        if self._in_body and error is None and not {b"content-length", b"transfer-encoding"} & self._headers.keys():
            self._finish(None, keep=False)  # the end of the connection is the end of this body
        else:
            self._finish(f"the connection broke: {error or 'the server closed it'}", keep=False)

    def on_message_begin(self) -> None:
        """A message begins (the parser's call)."""
        if self._reader is None:
            self.abort()  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header (the parser's call)."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES or len(self._headers) >= MAX_HEADER_COUNT:
            raise ValueError("its head is longer than the limit")
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is whole (the parser's call)."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200 and self._reader is not None:
            self._in_body = True
            self._reader.head(status, self._headers, self._now)

    def on_body(self, data: bytes) -> None:
        """Bytes of the body (the parser's call)."""
        if self._reader is not None:
            self._reader.body(data, self._now)

    def on_message_complete(self) -> None:
        """The answer is whole (the parser's call)."""
        assert self._parser is not None
        if self._parser.get_status_code() < 200:
            self._begin_message()  # an interim answer; the real one follows
        else:
            self._finish(None, keep=self._parser.should_keep_alive())

    def _begin_message(self) -> None:
        self._headers = {}
        self._header_bytes = 0
        self._in_body = False

    def _finish(self, broken: str | None, *, keep: bool) -> None:
        """Ends the exchange, telling its reader, and closes the connection unless it is kept."""
        reader, self._reader = self._reader, None
        if reader is not None and self._got_bytes:
            reader.end(self._now, broken)
        if self._done is not None and not self._done.done():
            self._done.set_result(self._got_bytes)
        if not keep and self._transport is not None:
            self._transport.abort()
