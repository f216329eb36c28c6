"""One request's events on their way to its reader: a coalescing slot a sample, bounded in bytes.

Knows nothing about steps, text or HTTP. Invariant: `put` never waits; what a slow reader has not taken is merged, not
queued, and never grows past the bound.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator

from penstock.core import Event, Request, TokenLogprobs
from penstock.core.limits import MAX_STREAM_BUFFER_BYTES, MAX_STREAM_STALL_S

Waiter = asyncio.Future[None] | threading.Event


class EventStream:
    """One request's events (implements core.ports.Stream); iterated once, either way, by one reader.

    Attributes:
        request: as admitted, with its seed resolved.
        behind: something was put on top of what had not been read yet.
    """

    __slots__ = ("_ended", "_lock", "_oldest_s", "_pending", "_remaining", "_waiter", "behind", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self._lock = threading.Lock()
        self._pending: dict[int, Event] = {}
        self._oldest_s = 0.0
        self._remaining = request.sampling.n
        self._ended = False
        self._waiter: Waiter | None = None
        self.behind = False

    def put(self, event: Event, now: float) -> Waiter | None:
        """Adds one event; returns whom to wake (once), or None.

        An event after the end is dropped: the first error or the last sample's finish is what the reader sees last.
        """
        sample, finish, error = event[0], event[5], event[6]  # to unpack a named tuple takes twice as long
        with self._lock:
            if self._ended:
                return None
            pending = self._pending
            if not pending:
                self._oldest_s = now
                pending[sample] = event
            elif sample in pending:
                pending[sample] = merge(pending[sample], event)
                self.behind = True
            else:
                pending[sample] = event
            if finish is not None:
                self._remaining -= 1
                self._ended = self._remaining == 0
            if error is not None:
                self._ended = True
            waiter, self._waiter = self._waiter, None
            return waiter

    def overdue(self, now: float) -> str | None:
        """Why the reader is too slow to go on with, or None: a slot over its bound, or nothing taken for too long.

        The bound holds for each sample's deltas. Prompt logprobs come once and are bounded by the request itself.
        """
        with self._lock:
            if not self._pending or self._ended:
                return None
            most = max(map(event_bytes, self._pending.values()))
            if most > MAX_STREAM_BUFFER_BYTES:
                return f"{most} bytes of output were not read; at most {MAX_STREAM_BUFFER_BYTES} are kept."
            waited_s = now - self._oldest_s
            if waited_s > MAX_STREAM_STALL_S:
                return f"nothing was read for {waited_s:.0f} s; the limit is {MAX_STREAM_STALL_S:.0f} s."
            return None

    @property
    def ended(self) -> bool:
        """Whether the last event has been put."""
        return self._ended

    def take(self) -> tuple[Event, ...]:
        """What is there now, at most one event a sample; () when there is nothing. Never waits."""
        with self._lock:
            return self._take()

    def _take(self) -> tuple[Event, ...]:
        if not self._pending:
            return ()
        events = tuple(self._pending.values())
        self._pending = {}
        self.behind = False
        return events

    def __aiter__(self) -> AsyncIterator[tuple[Event, ...]]:
        return self._read_async()

    async def _read_async(self) -> AsyncIterator[tuple[Event, ...]]:
        loop = asyncio.get_running_loop()
        while True:
            waiter: asyncio.Future[None] | None = None
            with self._lock:
                events = self._take()
                ended = self._ended
                if not events and not ended:
                    waiter = loop.create_future()
                    self._waiter = waiter
            if events:
                yield events
            if waiter is not None:
                await waiter
            elif ended:
                return

    def __iter__(self) -> Iterator[tuple[Event, ...]]:
        while True:
            waiter: threading.Event | None = None
            with self._lock:
                events = self._take()
                ended = self._ended
                if not events and not ended:
                    waiter = threading.Event()
                    self._waiter = waiter
            if events:
                yield events
            if waiter is not None:
                waiter.wait()
            elif ended:
                return


def merge(first: Event, second: Event) -> Event:
    """One event that says what the two say in order."""
    logprobs: tuple[TokenLogprobs, ...] | None = first.logprobs
    if second.logprobs is not None:
        logprobs = second.logprobs if logprobs is None else logprobs + second.logprobs
    return Event(
        first.sample,
        first.tokens + second.tokens,
        first.text + second.text,
        logprobs,
        first.prompt_logprobs if second.prompt_logprobs is None else second.prompt_logprobs,
        second.finish or first.finish,
        second.error or first.error,
    )


def event_bytes(event: Event) -> int:
    """Bytes that an event's deltas weigh in a slot: 8 a token, text as UTF-8, 16 a log probability."""
    text = event.text
    size = 8 * len(event.tokens) + (len(text) if text.isascii() else len(text.encode("utf-8", "replace")))
    if event.logprobs is not None:
        size += sum(16 * (1 + len(position.top)) for position in event.logprobs)
    return size


def wake(waiters: Iterable[Waiter]) -> None:
    """Wakes readers: blocking ones at once, those of an event loop with one call into that loop.

    A loop that has been closed has no readers any more; theirs are skipped.
    """
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiter in waiters:
        if isinstance(waiter, threading.Event):
            waiter.set()
        else:
            loops.setdefault(waiter.get_loop(), []).append(waiter)
    for loop, futures in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, futures)
        except RuntimeError:
            continue


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
