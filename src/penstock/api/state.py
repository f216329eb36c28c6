"""What one running server holds: models by name, work in flight, metrics, and whether it takes more.

Knows nothing about routes. Invariant: only the event loop's thread changes it; whatever was counted in is counted out.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from penstock.api.metrics import Metrics
from penstock.api.settings import ApiSettings, ServedModel
from penstock.api.workers import Workers
from penstock.core import Clock, Draining, ModelNotFound, Overloaded, QueueFull, Snapshot, limits


@dataclass(frozen=True, slots=True)
class Sources:
    """Where time and chance come from.

    Attributes:
        clock: the scale of the engines' timings.
        epoch_s: seconds since 1970, for `created` only.
        draw_seed: a seed for a request that named none.
        draw_id: a fresh unguessable id.
    """

    clock: Clock
    epoch_s: Callable[[], int] = lambda: time.time_ns() // 1_000_000_000
    draw_seed: Callable[[], int] = lambda: secrets.randbelow(limits.DRAWN_SEEDS)
    draw_id: Callable[[], str] = lambda: secrets.token_hex(16)


@dataclass(slots=True)
class _Busy:
    """Requests of one model that the engine has, and since when there have been any."""

    count: int = 0
    since_s: float = 0.0


@dataclass(slots=True)
class ApiState:
    """See the module. Made by `create_app`, found at `app.state.api`.

    Attributes:
        draining: nothing new is taken.
        cut: set when the grace is over; whoever still runs ends with an error.
        quiet: set while no request is being prepared or answered.
    """

    models: Mapping[str, ServedModel]
    settings: ApiSettings
    sources: Sources
    workers: Workers
    metrics: Metrics
    created: int
    draining: bool = False
    drain_deadline_s: float = 0.0
    cut: asyncio.Event = field(default_factory=asyncio.Event)
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    _preparing: int = 0
    _body_bytes: int = 0
    _live: int = 0
    _busy: dict[str, _Busy] = field(default_factory=dict)
    _names: dict[str, ServedModel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.quiet.set()
        for model in self.models.values():
            self._busy[model.name] = _Busy()
            for name in (model.name, *model.aliases):
                self._names[name] = model

    @property
    def names(self) -> Mapping[str, ServedModel]:
        """Every name that requests may use, aliases included."""
        return self._names

    def find_model(self, name: str) -> ServedModel:
        """The model of that name or alias.

        Raises:
            ModelNotFound: with the same text whatever the name was.
        """
        model = self._names.get(name)
        if model is None:
            raise ModelNotFound("no such model.", param="model", hint="GET /v1/models lists the names.")
        return model

    @property
    def live(self) -> int:
        """Requests being prepared or answered."""
        return self._live

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a request in, before its body is read, and out at its end.

        Raises:
            QueueFull: too many are being prepared.
            Draining: the server is going down.
        """
        if self.draining:
            raise self.draining_error()
        if self._preparing >= limits.MAX_PREPARING:
            raise QueueFull(
                f"{self._preparing} requests are waiting to be read.",
                hint=f"at most {limits.MAX_PREPARING} are held; retry later.",
                retry_after_s=1.0,
            )
        self._live += 1
        self.quiet.clear()
        try:
            yield
        finally:
            self._live -= 1
            if self._live == 0:
                self.quiet.set()

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Counts a request that is being read, parsed or tokenized."""
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1

    def hold_body(self, count: int) -> None:
        """Counts body bytes in (or out, negative).

        Raises:
            Overloaded: other bodies already fill the memory set aside; nothing is counted then.
        """
        if count > 0 and self._body_bytes + count > self.settings.max_body_bytes_in_flight:
            raise Overloaded("too many request bodies are being read.", hint="retry later.", retry_after_s=1.0)
        self._body_bytes += count

    @contextmanager
    def working(self, model: ServedModel) -> Iterator[None]:
        """Counts a request that the engine has, so that a step that hangs shows."""
        busy = self._busy[model.name]
        if busy.count == 0:
            busy.since_s = self.sources.clock.now()
        busy.count += 1
        try:
            yield
        finally:
            busy.count -= 1

    def draining_error(self) -> Draining:
        """The refusal while the server goes down, with the time left as advice."""
        left_s = max(1.0, self.drain_deadline_s - self.sources.clock.now())
        return Draining("the server is shutting down.", hint="retry against another replica.", retry_after_s=left_s)

    def begin_drain(self) -> None:
        """Refuses new work from now on and says so in readiness; what runs goes on."""
        self.draining = True
        self.drain_deadline_s = self.sources.clock.now() + self.settings.grace_s
        for model in self.models.values():
            model.client.drain()

    def trouble(self, model: ServedModel, snapshot: Snapshot) -> str | None:
        """Why a model cannot be relied on now ("dead", "draining" or "stalled"), or None."""
        if snapshot.dead:
            return "dead"
        if snapshot.draining or self.draining:
            return "draining"
        busy = self._busy[model.name]
        if busy.count:
            silent_s = self.sources.clock.now() - max(snapshot.last_progress_s, busy.since_s)
            if silent_s > self.settings.stall_s:
                return "stalled"
        return None
