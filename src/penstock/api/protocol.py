"""HTTP/1.1 connections with bounds: header bytes, header count, header time, open connections.

Knows nothing about routes. Invariant: a connection that has not yet sent a whole head holds at most the head's limit in
bytes, for at most the head's limit in seconds; a refusal has the error contract's body.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
from array import array
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from penstock.api.failure import error_body, error_headers
from penstock.core import HeadersTooLarge, InvalidRequest, Overloaded, PenstockError, limits

_MAX_TARGET_BYTES: Final = 16 * 1024
# How long a refused connection's remaining bytes are read and thrown away: closing with bytes unread resets the
# connection, and the client's system may then drop the refusal before the client reads it.
_LINGER_S: Final = 1.0


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol with the bounds that it lacks."""

    max_connections = 4096

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._refusal: PenstockError | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection, or refuses it when there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(Overloaded("too many connections are open.", hint="retry later.", retry_after_s=1.0))
            return
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the timer with the connection."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts a head's bytes before they are parsed."""
        if self.parser is None or self._refused or self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > limits.MAX_HEADER_BYTES and not self._refused:
            self._refuse(_too_large())

    def on_message_begin(self) -> None:
        """A new head begins."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        self.scope["penstock.abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
        self.scope["penstock.unsent"] = self.unsent_bytes  # type: ignore[typeddict-unknown-key]
        self._start_head_timer()

    def unsent_bytes(self) -> int:
        """Bytes of answers that the client's machine has not acknowledged: in this process and in the kernel.

        A kernel gives room back in large pieces, so that this process's part alone may stand still for a long time
        under a client that reads slowly and steadily.
        """
        if self.transport.is_closing():
            return 0
        held = self.transport.get_write_buffer_size()
        link = self.transport.get_extra_info("socket")
        queued = array("i", [0])
        try:
            fcntl.ioctl(link.fileno(), termios.TIOCOUTQ, queued)
        except OSError:
            return held
        return held + queued[0]

    def on_url(self, url: bytes) -> None:
        """Bounds the request target."""
        super().on_url(url)
        if len(self.url) > _MAX_TARGET_BYTES:
            self._fail(_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        """Bounds the number and the size of header fields."""
        super().on_header(name, value)
        total = sum(len(field) + len(text) for field, text in self.headers)
        if len(self.headers) > limits.MAX_HEADER_COUNT or total > limits.MAX_HEADER_BYTES:
            self._fail(_too_large())

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        self._stop_head_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers what the parser refused, in the contract's shape."""
        self._refuse(self._refusal or InvalidRequest("this is not a valid HTTP request.", code="invalid_http"))

    def _fail(self, error: PenstockError) -> None:
        """Within a parser callback: stops the parser; `send_400_response` then says why."""
        self._refusal = error
        raise ValueError(error.message)

    def _refuse(self, error: PenstockError) -> None:
        self._stop_head_timer()
        if self._refused:
            return
        self._refused = True
        if self.cycle is None or self.cycle.response_complete:
            body = error_body(error)
            lines = [STATUS_LINE[error.status]]
            for name, value in error_headers(error):
                if name != b"connection":
                    lines.append(name + b": " + value + b"\r\n")
            lines.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
            self.transport.write(b"".join(lines) + body)
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.loop.call_later(_LINGER_S, self.transport.close)
        else:
            self.transport.close()

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(limits.MAX_HEADER_S, self._head_timed_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(
                InvalidRequest(f"no whole request head came within {limits.MAX_HEADER_S:.0f} s.", code="header_timeout")
            )


def bounded_protocol(max_connections: int) -> type[BoundedProtocol]:
    """The protocol class with that many connections at most."""
    return type("BoundedProtocol", (BoundedProtocol,), {"max_connections": max_connections})


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge(
        "the request's head is too large.",
        hint=f"at most {limits.MAX_HEADER_BYTES} bytes and {limits.MAX_HEADER_COUNT} fields are taken.",
    )
