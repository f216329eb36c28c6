"""Runs of the real engine, scheduler and KV manager on a virtual clock: a simulation, and the replay of a step log.

Knows nothing about how steps are decided. Invariant: nothing here decides anything; it only feeds the engine and reads
what comes out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from penstock.core import ConfigError, EngineConfig, Event, Finish, KvGroup, Request, ServerError, Snapshot
from penstock.engine import Arrive, Engine, EventStream, read_step_log
from penstock.kv import KvManager
from penstock.sched import Scheduler
from penstock.sim.backend import CostBackend, Costs
from penstock.sim.clock import VirtualClock

# Turns without progress before a simulation is declared stuck rather than run for ever.
MAX_IDLE_TURNS = 1000
IDLE_TURN_S = 0.02


class SilentText:
    """Decoders that say nothing: a simulation has no text (implements core.ports.TextDecoder)."""

    def stream(self, skip_special_tokens: bool, after: int | None = None) -> SilentText:
        """Itself: there is nothing to keep."""
        return self

    def push(self, tokens: Sequence[int]) -> str:
        """No text."""
        return ""

    def flush(self) -> str:
        """No text."""
        return ""


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What a simulation brought.

    Attributes:
        finishes: per request id, the finish of each sample in the order in which they ended.
        output_tokens: per request id, tokens over all samples.
        errors: per request id, for those that ended with one, refusals at the door included.
        decisions: chain hash of every plan.
        snapshot: the engine's state at the end.
        duration_s: simulated seconds.
    """

    finishes: dict[str, list[Finish]]
    output_tokens: dict[str, int]
    errors: dict[str, Exception]
    decisions: bytes
    snapshot: Snapshot
    duration_s: float


class _Readers:
    """Reads every stream after every step, as fast clients do."""

    def __init__(self) -> None:
        self.finishes: dict[str, list[Finish]] = {}
        self.output_tokens: dict[str, int] = {}
        self.errors: dict[str, Exception] = {}
        self._open: dict[str, EventStream] = {}

    def add(self, stream: EventStream) -> None:
        self._open[stream.request.id] = stream
        self.output_tokens[stream.request.id] = 0

    def read(self) -> None:
        ended = []
        for id, stream in self._open.items():
            for event in stream.take():
                self._note(id, event)
            if stream.ended:
                ended.append(id)
        for id in ended:
            del self._open[id]

    def _note(self, id: str, event: Event) -> None:
        self.output_tokens[id] += len(event.tokens)
        if event.finish is not None:
            self.finishes.setdefault(id, []).append(event.finish)
        if event.error is not None:
            self.errors[id] = event.error


def simulate(
    requests: Iterable[Request], config: EngineConfig, groups: tuple[KvGroup, ...], costs: Costs
) -> SimulationResult:
    """Serves the requests at their `arrival_s` (ascending) on a virtual clock and returns when all have ended.

    Raises:
        ServerError: the scheduler stopped planning although requests wait.
    """
    clock = VirtualClock()
    backend = CostBackend(groups, config.page_tokens, costs, clock, config.vocab_size)
    backend.allocate(config.pages)
    kv = KvManager(groups, config)
    engine = Engine(config, Scheduler(config, kv), backend, SilentText())
    engine.hash_decisions = True
    readers = _Readers()
    arrivals = deque(requests)
    idle_turns = 0
    while arrivals or not engine.idle:
        while arrivals and arrivals[0].arrival_s <= clock.now():
            _offer(engine, arrivals.popleft(), clock.now(), readers)
        if engine.step(clock):
            idle_turns = 0
        elif engine.idle and arrivals:
            clock.advance_to(arrivals[0].arrival_s)
        elif (idle_turns := idle_turns + 1) > MAX_IDLE_TURNS:
            raise ServerError(f"the simulation is stuck at {clock.now():.3f} s: requests wait and nothing is planned.")
        else:
            clock.advance_to(clock.now() + IDLE_TURN_S)
        readers.read()
    engine.step(clock)
    kv.check()
    snapshot = engine.snapshot
    engine.close()
    return SimulationResult(
        readers.finishes, readers.output_tokens, readers.errors, engine.decisions, snapshot, clock.now()
    )


def _offer(engine: Engine, request: Request, now: float, readers: _Readers) -> None:
    """What a client's request meets at the door: a stream, or a refusal that is noted."""
    try:
        readers.add(engine.submit(request, now))
    except Exception as error:
        readers.errors[request.id] = error


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay brought.

    Attributes:
        turns: turns of the loop in the log.
        first_difference: the first turn (from 0) whose decision hash is not the log's, or None.
        decisions: the chain hash at the end.
    """

    turns: int
    first_difference: int | None
    decisions: bytes


def replay(path: str) -> ReplayResult:
    """Runs a step log again: same engine, scheduler and KV manager, recorded inputs, times and sampled tokens.

    Raises:
        ConfigError: the file is no step log of this version, or its records fit no decisions at all.
    """
    config, groups, turns = read_step_log(path)
    clock = VirtualClock()
    backend = CostBackend(groups, config.page_tokens, Costs(0.0, 0.0, 1.0, 1.0), clock, config.vocab_size)
    engine = Engine(config, Scheduler(config, KvManager(groups, config)), backend, SilentText())
    engine.hash_decisions = True
    streams: dict[str, EventStream] = {}
    first_difference: int | None = None
    number = -1
    for number, turn in enumerate(turns):
        clock.advance_to(turn.now)
        for command in turn.inputs:
            if isinstance(command, Arrive):
                streams[command.request.id] = command.stream
            engine.inbox.push(command)
        if turn.commit is not None:
            backend.record.append((turn.commit.now, turn.commit.result))
        engine.step(clock)
        if engine.snapshot.dead:
            raise ConfigError(f"{path}: turn {number} fits no decision of this engine.", param="step_log")
        for id in [id for id, stream in streams.items() if stream.take() is not None and stream.ended]:
            del streams[id]
        if engine.decisions.hex() != turn.decisions and first_difference is None:
            first_difference = number
    engine.close()
    return ReplayResult(number + 1, first_difference, engine.decisions)
