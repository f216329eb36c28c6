"""Listens, and goes down in order: readiness first, then new requests, then what runs, then the process.

Knows nothing about routes; prints nothing. Invariant: after the first signal nothing new is taken, and every running
request ends with its answer or an error frame.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final

import uvicorn
import uvloop
from starlette.applications import Starlette

from penstock.api.protocol import bounded_protocol
from penstock.api.settings import ApiSettings
from penstock.api.state import ApiState
from penstock.core import ConfigError

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# How long streams that were cut at the end of the grace get to write their last frame.
_LAST_FRAMES_S: Final = 2.0
_SWITCH_INTERVAL_S: Final = 0.0005


def serve(app: Starlette, settings: ApiSettings, ready: Callable[[str], None] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the process's exit code, 0.

    The first signal drains: readiness turns 503, new requests get 503 with Retry-After, running ones get
    `settings.grace_s` seconds and then an error frame. A second signal ends the process at once.

    Args:
        app: made by `create_app`.
        settings: the same as the app's.
        ready: called once with the base URL, when connections are accepted.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL_S))
    listener = bind(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ApiServer(app, settings, listener, ready).run())
    return 0


def bind(settings: ApiSettings) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: naming the address and the reason.
    """
    host = settings.host.strip("[]")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or 'unknown name'}.",
            param="port",
            hint="choose another --host or --port.",
        ) from None
    listener.setblocking(False)
    return listener


def base_url(listener: socket.socket) -> str:
    """Where a client on this machine reaches a listening socket."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class ApiServer(uvicorn.Server):
    """One listening server on the running loop.

    Args:
        app: made by `create_app`.
        settings: the same as the app's.
        listener: from `bind`.
        ready: called once with the base URL.
    """

    def __init__(
        self, app: Starlette, settings: ApiSettings, listener: socket.socket, ready: Callable[[str], None] | None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=bounded_protocol(settings.max_connections),
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=1,
            )
        )
        self._api: ApiState = app.state.api
        self._listener = listener
        self._ready = ready
        self._drain: asyncio.Task[None] | None = None

    async def run(self) -> None:  # type: ignore[override]
        """Serves until `begin_drain` has run its course."""
        loop = asyncio.get_running_loop()
        in_main = threading.current_thread() is threading.main_thread()
        for number in _SIGNALS if in_main else ():
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            await self.serve(sockets=[self._listener])
        finally:
            for number in _SIGNALS if in_main else ():
                loop.remove_signal_handler(number)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves signals to this class."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts connections, then says so."""
        await super().startup(sockets)
        if self._ready is not None and not self.should_exit:
            self._ready(base_url(self._listener))

    def begin_drain(self) -> None:
        """Takes nothing new; the server ends when what runs has ended, or the grace has."""
        if self._drain is None:
            self._api.begin_drain()
            self._drain = asyncio.get_running_loop().create_task(self._finish())

    def _on_signal(self, number: int) -> None:
        if self._drain is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(128 + number)
        self.begin_drain()

    async def _finish(self) -> None:
        await self._wait_idle(self._api.settings.grace_s)
        self._api.cut.set()
        await self._wait_idle(_LAST_FRAMES_S)
        self.should_exit = True

    async def _wait_idle(self, limit_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._api.quiet.wait()
