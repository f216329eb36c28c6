"""Runs a prepared request: reads its streams, watches the client and the server's shutdown, and always lets go.

Knows nothing about JSON. Invariant: when a function here returns or raises, the engine holds none of the
request's work, or has been told to end it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import Any, Final, TypeVar

from starlette.types import Receive, Send

from penstock.api.answers import Gathered, Sample
from penstock.api.chunks import PING, Chunks
from penstock.api.failure import DONE, error_frame, to_penstock
from penstock.api.metrics import RequestMeter
from penstock.api.prepare import Prepared
from penstock.api.state import ApiState
from penstock.core import EngineUnavailable, Event, Stream

T = TypeVar("T")

_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_LOOKS: Final = 4


class ClientGone(Exception):
    """The client closed the connection or stopped reading; nobody is left to answer."""


class Run:
    """One prepared request with its streams, submitted.

    Args:
        state: of the server.
        prepared: what was asked.
        streams: one a prompt, from the engine.
    """

    def __init__(self, state: ApiState, prepared: Prepared, streams: Sequence[Stream]) -> None:
        self.state = state
        self.prepared = prepared
        series = state.metrics.models[prepared.model.name]
        self._streams = streams
        self._meters = [RequestMeter(series, request) for request in prepared.requests]

    async def events(self, number: int) -> AsyncIterator[tuple[Event, ...]]:
        """Batches of events of prompt `number`.

        Raises:
            PenstockError: the engine ended the request with it, or ended the stream before the last sample.
        """
        meter = self._meters[number]
        now = self.state.sources.clock.now
        left = self.prepared.n
        async for batch in self._streams[number]:
            read_s = now()
            for event in batch:
                if event.error is not None:
                    raise event.error
                meter.saw(event, read_s)
                left -= event.finish is not None
            yield batch
        if left:
            raise EngineUnavailable("the engine ended the stream early.", hint="retry.", retry_after_s=1.0)

    def let_go(self, reason: str) -> None:
        """Tells the engine to end what is left, and counts it as "abort" or "error"."""
        for request, meter in zip(self.prepared.requests, self._meters, strict=True):
            self.prepared.model.client.cancel(request.id)
            meter.ended(reason)


async def guarded(run: Run, receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, unless the client goes or the server's grace ends first.

    Raises:
        ClientGone: the connection closed.
        Draining: the grace period ended.
        PenstockError: of the work itself.
    """
    with run.state.working(run.prepared.model):
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_wait_gone(receive))
        cut = asyncio.ensure_future(run.state.cut.wait())
        try:
            await asyncio.wait((task, gone, cut), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                raise ClientGone
            raise run.state.draining_error()
        except BaseException as error:
            # First of all the engine: its pages are worth more than a tidy order here.
            run.let_go("abort" if isinstance(error, (ClientGone, asyncio.CancelledError)) else "error")
            raise
        finally:
            waiting = [future for future in (task, gone, cut) if not future.done()]
            for future in waiting:
                future.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def _wait_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def gather(run: Run) -> list[Gathered]:
    """All samples of all prompts, whole."""
    return await _all(run, lambda number: _gather_one(run, number))


async def _gather_one(run: Run, number: int) -> Gathered:
    gathered = Gathered([Sample() for _ in range(run.prepared.n)])
    async for batch in run.events(number):
        for event in batch:
            gathered.add(event)
    return gathered


async def _all(run: Run, one: Callable[[int], Coroutine[Any, Any, T]]) -> list[T]:
    """`one(number)` for every prompt, at the same time; the first failure ends the others."""
    if len(run.prepared.requests) == 1:
        return [await one(0)]
    tasks = [asyncio.ensure_future(one(number)) for number in range(len(run.prepared.requests))]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        with ExitStack() as stack:
            for task in tasks:
                stack.callback(task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)


class Writer:
    """The client's end of a stream: headers with the first bytes, then frames, one whole write at a time.

    Writers of one connection take turns, so that what is buffered is bounded by the connection, not by its prompts.

    Args:
        send: of the connection.
        clock: seconds.
        abort: closes the connection at once, which ends every write that waits.
        unsent: bytes that were written and that the client has not yet taken; 0 where nobody knows.
    """

    def __init__(
        self, send: Send, clock: Callable[[], float], abort: Callable[[], None], unsent: Callable[[], int]
    ) -> None:
        self._send = send
        self._clock = clock
        self._abort = abort
        self._unsent = unsent
        self._turn = asyncio.Lock()
        self._writes = 0
        self._moved_s = clock()
        self._left = 0
        self.started = False

    async def write(self, data: bytes, more: bool = True) -> None:
        """Sends; waits while the client's buffers are full, as long as `watch` lets it."""
        if not self._writes:
            self._moved_s = self._clock()
        self._writes += 1
        try:
            async with self._turn:
                if not self.started:
                    self.started = True
                    await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
                await self._send({"type": "http.response.body", "body": data, "more_body": more})
                self._moved_s = self._clock()
        finally:
            self._writes -= 1

    async def watch(self, ping_s: float, slow_reader_s: float) -> None:
        """Sends a comment after `ping_s` of silence; cuts a client off that takes no byte of what waits for that long.

        Runs until cancelled or cut off. One timer a stream instead of one a write; it looks four times within
        `slow_reader_s`, so that a client is cut off at most a quarter later than that.

        Args:
            ping_s: of silence.
            slow_reader_s: without one byte leaving.
        """
        while True:
            waits = self._look()
            left_s = self._moved_s + (slow_reader_s if waits else ping_s) - self._clock()
            if left_s > 0.0:
                await asyncio.sleep(min(left_s, ping_s, slow_reader_s / _LOOKS))
            elif waits:
                self._abort()
                return
            else:
                await self.write(PING)  # nothing waits, so neither does this

    def _look(self) -> bool:
        """Whether bytes wait for the client; notes when some of them left."""
        left = self._unsent()
        if left < self._left:
            self._moved_s = self._clock()
        self._left = left
        return self._writes > 0 or left > 0


async def stream(run: Run, chunks: Chunks, writer: Writer, receive: Receive) -> None:
    """Writes the whole streamed answer; a failure before the first byte is raised, a later one becomes a frame.

    Raises:
        ClientGone: nobody reads.
        PenstockError: nothing was sent yet.
    """
    settings = run.state.settings
    watcher = asyncio.ensure_future(writer.watch(settings.ping_s, settings.slow_reader_s))
    try:
        await guarded(run, receive, _all(run, lambda number: _stream_one(run, number, chunks, writer)))
        await writer.write(chunks.usage_frame() + DONE, more=False)
    except (ClientGone, asyncio.CancelledError):
        raise
    except Exception as error:
        if not writer.started:
            raise
        await writer.write(error_frame(to_penstock(error, run.prepared.requests[0].id)), more=False)
    finally:
        await _stop(watcher)


async def _stream_one(run: Run, number: int, chunks: Chunks, writer: Writer) -> None:
    async for batch in run.events(number):
        data = b"".join([chunks.frames(number, event) for event in batch])
        if data:
            await writer.write(data)


async def _stop(task: Awaitable[None]) -> None:
    """Ends the watcher; whatever it failed with shows in the stream's own writes."""
    future = asyncio.ensure_future(task)
    future.cancel()
    await asyncio.gather(future, return_exceptions=True)
