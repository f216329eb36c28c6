"""Runs a workload: sends every request at its time, measures how well that went, and ends.

Knows nothing about metrics. Invariant: an open loop never waits for an answer before a send, and a request's intended
arrival stays what it was however late the client or the server is; time is monotonic and starts with the run.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.bench.client import Client, Endpoint
from penstock.bench.health import Health, LagBounds, invalid_because, lag_of, send_lag, watch_loop
from penstock.bench.records import Ask, Outcome, Seen
from penstock.core import ConfigError

if sys.platform == "win32":
    new_loop = asyncio.new_event_loop
else:
    from uvloop import new_event_loop as new_loop

PROGRESS_S = 0.5
LAST_SEND_S = 0.1  # how precisely the last send is known to the drain
MAX_AHEAD = 64  # requests whose bytes are made before their time
MAX_AHEAD_BYTES = 16 * 1024 * 1024
SPARE_S = 0.005  # no bytes are made this close to an arrival


@dataclass(frozen=True, slots=True)
class RunPlan:
    """How a workload is run.

    Attributes:
        endpoint: where to.
        users: a closed loop of that many, each sending when its answer before has come; None sends by arrivals.
        max_in_flight: holds requests of an open loop back: it is closed where it bites, which is counted.
        stop_s: nothing is sent after that; None sends everything.
        drain_s: how long after the last send (or `stop_s`) answers are waited for; the rest is unfinished.
        warm_connections: opened before the run, so that no request waits for one.
        keep_text: whether the answers' texts are kept.
        bounds: of the client's own lags.
        processes: clients side by side.
    """

    endpoint: Endpoint
    users: int | None = None
    max_in_flight: int | None = None
    stop_s: float | None = None
    drain_s: float = 60.0
    warm_connections: int = 1
    keep_text: bool = False
    bounds: LagBounds = field(default_factory=LagBounds)
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands."""

    at_s: float
    num_asks: int
    num_sent: int
    num_ended: int
    num_ok: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run saw, by id; asks that were never due are not in it.

    Attributes:
        seen: one for each request that was sent or should have been.
        health: the client's own.
        invalid: why its figures can't be believed; empty where they can.
        texts: by id, where they were kept.
        duration_s: from the start to the end of the last answer.
        interrupted: whether somebody ended it before its time: what was in flight then is unfinished.
    """

    seen: tuple[Seen, ...]
    health: Health
    invalid: tuple[str, ...]
    texts: dict[int, str]
    duration_s: float
    interrupted: bool = False


Conversation = list[Ask]
Prompt = str | tuple[int, ...] | tuple[dict[str, Any], ...]
Report = Callable[[Progress], None]
Stop = Callable[[], None]


def conversations(asks: Iterable[Ask], users: int | None) -> list[Conversation]:
    """The asks by session, turns in order, in order of arrival (a closed loop keeps the order given).

    Raises:
        ConfigError: an arrival is missing in an open loop or given in a closed one, or ids repeat.
    """
    groups: dict[object, Conversation] = {}
    ids: set[int] = set()
    for ask in asks:
        if ask.id in ids:
            raise ConfigError(f"request {ask.id} is asked twice.", param="id", hint="ids are unique in a run.")
        ids.add(ask.id)
        key = ("alone", ask.id) if ask.session is None else ("session", ask.session)
        groups.setdefault(key, []).append(ask)
    for group in groups.values():
        group.sort(key=lambda ask: ask.turn)
        if (group[0].arrival_s is None) != (users is not None):
            raise ConfigError(
                f"request {group[0].id} has {'no' if users is None else 'an'} arrival in "
                f"{'an open' if users is None else 'a closed'} loop.",
                param="users",
                hint="give arrivals, or a number of users, and not both.",
            )
    found = list(groups.values())
    return found if users is not None else sorted(found, key=lambda group: group[0].arrival_s or 0.0)


def continued(prompt: Prompt, answer: str, said: str | tuple[dict[str, Any], ...]) -> Prompt:
    """A conversation with the answer that came and what is said next."""
    if isinstance(said, str):
        assert isinstance(prompt, str)
        return prompt + answer + said
    before = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    return (*before, {"role": "assistant", "content": answer}, *said)


class Run:
    """One client's run of some conversations.

    Args:
        plan: how.
        groups: whose turns follow each other.
        start_s: when time is zero, on `time.monotonic`; now if None.
    """

    def __init__(self, plan: RunPlan, groups: Sequence[Conversation], start_s: float | None = None) -> None:
        self.plan = plan
        self.groups = groups
        self._num_asks = sum(map(len, groups))
        self.seen: list[Seen] = []
        self.texts: dict[int, str] = {}
        self.held: set[int] = set()
        self._begun = self._dropped = self._sent = self._ended = self._ok = 0
        self._failure: BaseException | None = None
        self._interrupted = False
        self._start_s = start_s
        self._client = Client(plan.endpoint, self.clock, keep_text=plan.keep_text)
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(plan.max_in_flight) if plan.max_in_flight is not None else None
        self._lags: list[float] = []

    def clock(self) -> float:
        """Seconds since the run's start."""
        return time.monotonic() - (self._start_s or 0.0)

    async def run(self, report: Report | None = None) -> RunResult:
        """Runs to the end; cancelled, it ends at once and returns what it saw until then.

        Raises:
            ConfigError: the server can't be reached before the start.
        """
        watchers: list[asyncio.Task[None]] = []
        processor_s = time.process_time()
        try:
            await self._begin()
            processor_s = time.process_time()
            watchers.append(asyncio.create_task(watch_loop(self.clock, self._lags)))
            if report is not None:
                watchers.append(asyncio.create_task(self._report(report)))
            await self._load()
            await self._drain()
        except asyncio.CancelledError:
            self._interrupted = True
        finally:
            for task in [*watchers, *self._tasks]:
                task.cancel()
            await asyncio.gather(*watchers, *self._tasks, return_exceptions=True)
            self._client.close()
        if self._failure is not None:
            raise self._failure
        if report is not None:
            report(self._progress())
        return self._result(time.process_time() - processor_s)

    async def _begin(self) -> None:
        """Opens connections and waits for time zero."""
        if self.plan.warm_connections:
            await self._client.warm(self.plan.warm_connections)
        if self._start_s is None:
            self._start_s = time.monotonic()
        await self._until(0.0)

    async def _load(self) -> None:
        """Starts everything that is due before the stop; returns when nothing more will be."""
        if self.plan.users is None:
            await self._open_loop()
            return
        waiting = deque(self.groups)
        for _ in range(self.plan.users):
            self._start(self._user(waiting))
        if self.plan.stop_s is not None and self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, self.plan.stop_s - self.clock()))
        elif self._tasks:
            await asyncio.wait(self._tasks)

    async def _open_loop(self) -> None:
        ahead: deque[tuple[Conversation, bytes]] = deque()
        coming = iter(self.groups)
        size = 0
        while True:
            size = self._make_ahead(coming, ahead, size)
            if not ahead:
                return
            group, request = ahead.popleft()
            size -= len(request)
            arrival = group[0].arrival_s or 0.0
            if self.plan.stop_s is not None and arrival >= self.plan.stop_s:
                return
            await self._until(arrival)
            self._begun += len(group)
            self._start(self._converse(group, arrival, request))

    def _make_ahead(self, coming: Iterator[Conversation], ahead: deque[tuple[Conversation, bytes]], size: int) -> int:
        """Makes the bytes of what comes next, at least one, while there is time; returns their total size."""
        while not ahead or (
            len(ahead) < MAX_AHEAD
            and size < MAX_AHEAD_BYTES
            and self.clock() + SPARE_S < (ahead[0][0][0].arrival_s or 0.0)
        ):
            group = next(coming, None)
            if group is None:
                break
            ahead.append((group, self._client.request(group[0])))
            size += len(ahead[-1][1])
        return size

    async def _user(self, waiting: deque[Conversation]) -> None:
        """One user of a closed loop: takes conversations until none is left or the stop has come."""
        while waiting and not self._stopped(self.clock()):
            group = waiting.popleft()
            request = self._client.request(group[0])
            self._begun += len(group)
            await self._converse(group, self.clock(), request)

    async def _converse(self, group: Conversation, intended: float, request: bytes) -> None:
        """One conversation: each turn is due when the one before has ended and was thought about."""
        answer: list[str] = []
        for index, ask in enumerate(group):
            if index:
                if ask.said is not None:
                    ask = group[index] = replace(
                        ask, prompt=continued(group[index - 1].prompt, "".join(answer), ask.said)
                    )
                request = self._client.request(ask)
                if self._stopped(intended):
                    self._dropped += len(group) - index
                    return
                await self._until(intended)
            seen = Seen(ask.id, intended)
            self.seen.append(seen)
            answer.clear()
            await self._send(request, seen, answer)
            if seen.outcome is not Outcome.OK or seen.end_s is None:
                self._dropped += len(group) - index - 1
                return
            if index + 1 < len(group):
                intended = max(seen.end_s + ask.think_s, group[index + 1].arrival_s or 0.0)

    async def _send(self, request: bytes, seen: Seen, answer: list[str]) -> None:
        if self._gate is None:
            await self._send_now(request, seen, answer)
            return
        if self._gate.locked():
            self.held.add(seen.id)
        async with self._gate:
            await self._send_now(request, seen, answer)

    async def _send_now(self, request: bytes, seen: Seen, answer: list[str]) -> None:
        self._sent += 1
        text = await self._client.send(request, seen, answer)
        self._ended += 1
        self._ok += seen.outcome is Outcome.OK
        if self.plan.keep_text:
            self.texts[seen.id] = text

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()

    def _stopped(self, at_s: float) -> bool:
        return self.plan.stop_s is not None and at_s >= self.plan.stop_s

    async def _until(self, due: float) -> None:
        left = due - self.clock()
        while left > 0:  # timers may be early by a fraction of their millisecond
            await asyncio.sleep(left)
            left = due - self.clock()

    async def _drain(self) -> None:
        """Waits for the sends that are still to come (turns, held requests), then for the answers."""
        while self._tasks and self._sent + self._dropped < self._begun:
            await asyncio.wait(self._tasks, timeout=LAST_SEND_S)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.plan.drain_s)

    async def _report(self, report: Report) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            report(self._progress())

    def _progress(self) -> Progress:
        return Progress(self.clock(), self._num_asks, self._sent, self._ended, self._ok)

    def _result(self, processor_s: float) -> RunResult:
        seen = tuple(sorted(self.seen, key=lambda one: one.id))
        duration = max((one.end_s for one in seen if one.end_s is not None), default=0.0)
        health = Health(
            send_lag=send_lag(seen, self.held),
            loop_lag=lag_of(self._lags),
            cpu_share=processor_s / max(self.clock(), 1e-9),
            num_connections=self._client.num_opened,
            num_retried=self._client.num_retried,
            num_held=len(self.held),
            num_abandoned=self._begun - len(seen),
            num_own_faults=self._client.num_own_faults,
        )
        invalid = invalid_because(health, self.plan.bounds)
        return RunResult(seen, health, invalid, self.texts, duration, self._interrupted)


def run_here(
    plan: RunPlan,
    groups: Sequence[Conversation],
    report: Report | None = None,
    start_s: float | None = None,
    begun: Callable[[Stop], None] | None = None,
) -> RunResult:
    """Runs conversations in this process, on a loop of its own and without pauses of the garbage collector.

    An interrupt (Ctrl-C) ends the run, and what it saw until then is returned; a second one is raised.

    Args:
        plan: how.
        groups: what.
        report: called about twice a second with where it stands.
        start_s: when time is zero, on `time.monotonic`; now if None.
        begun: called once, with what ends the run early from any thread.

    Raises:
        ConfigError: the server can't be reached, or a request can't be made.
    """

    async def whole() -> RunResult:
        if begun is not None:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            begun(lambda: stop_soon(loop, task))
        return await Run(plan, groups, start_s).run(report)

    collected = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(whole())
    finally:
        if collected:
            gc.enable()


def stop_soon(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    """Cancels a task of another thread's loop; nothing where that has ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(task.cancel)
