"""The load generator's own health: how late it sent, how late its event loop ran, whether its figures can be believed.

Knows nothing about servers. Invariant: it is judged by what it measured of itself in the same run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.bench.records import Seen

LOOP_TICK_S = 0.01


@dataclass(frozen=True, slots=True)
class Lag:
    """How late something was, in seconds, over `count` occasions."""

    count: int
    p50_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class LagBounds:
    """Past these a run is invalid: the client would be measuring itself.

    Attributes:
        send_p99_s: of the send behind the intended arrival.
        loop_p99_s: of the event loop behind its timer.
    """

    send_p99_s: float = 0.02
    loop_p99_s: float = 0.02


@dataclass(frozen=True, slots=True)
class Health:
    """What a run's clients measured of themselves.

    Attributes:
        send_lag: first byte behind the intended arrival, without what opening a connection took, and without
            requests that `max_in_flight` held back.
        loop_lag: the event loop behind a timer of 10 ms.
        cpu_share: processor seconds a second of the run; near 1 a process can do no more.
        num_connections: that were opened.
        num_retried: requests sent again because an idle connection was closed under them.
        num_held: requests that waited for `max_in_flight`: the loop was closed for them.
        num_own_faults: connections that this machine could not open: out of descriptors, ports or memory.
        num_abandoned: later turns of sessions that were not sent, as an earlier one failed or the run ended.
        processes: how many clients; of several, each lag is the worst one's.
    """

    send_lag: Lag
    loop_lag: Lag
    cpu_share: float
    num_connections: int = 0
    num_retried: int = 0
    num_held: int = 0
    num_abandoned: int = 0
    processes: int = 1
    num_own_faults: int = 0


def lag_of(values: Sequence[float]) -> Lag:
    """The lag that these seconds make; all zero where there are none."""
    if not values:
        return Lag(0, 0.0, 0.0, 0.0)
    p50, p99 = np.percentile(np.asarray(values), (50, 99))
    return Lag(len(values), float(p50), float(p99), float(max(values)))


def send_lag(seen: Sequence[Seen], held: frozenset[int] | set[int]) -> Lag:
    """The lag of every request that was sent, connecting and held ones left out."""
    return lag_of(
        [
            max(0.0, one.sent_s - one.intended_s - one.connect_s)
            for one in seen
            if one.sent_s is not None and one.id not in held
        ]
    )


def merged(parts: Sequence[Health]) -> Health:
    """The health of several clients that ran side by side: counts are summed, lags are the worst one's."""
    return Health(
        send_lag=worst([part.send_lag for part in parts]),
        loop_lag=worst([part.loop_lag for part in parts]),
        cpu_share=max(part.cpu_share for part in parts),
        num_connections=sum(part.num_connections for part in parts),
        num_retried=sum(part.num_retried for part in parts),
        num_held=sum(part.num_held for part in parts),
        num_abandoned=sum(part.num_abandoned for part in parts),
        processes=sum(part.processes for part in parts),
        num_own_faults=sum(part.num_own_faults for part in parts),
    )


def worst(lags: Sequence[Lag]) -> Lag:
    """The worst of each figure."""
    return Lag(
        sum(lag.count for lag in lags),
        max(lag.p50_s for lag in lags),
        max(lag.p99_s for lag in lags),
        max(lag.max_s for lag in lags),
    )


def invalid_because(health: Health, bounds: LagBounds) -> tuple[str, ...]:
    """Why a run's figures can't be believed; empty where they can."""
    cure = "give the client more processes or its own cores, or ask for less."
    reasons = []
    for name, lag, bound in (
        ("requests were sent late", health.send_lag, bounds.send_p99_s),
        ("the client's event loop ran late", health.loop_lag, bounds.loop_p99_s),
    ):
        if lag.p99_s > bound:
            reasons.append(f"{name}: p99 {lag.p99_s * 1e3:.1f} ms, limit {bound * 1e3:g} ms. hint: {cure}")
    if health.num_own_faults:
        reasons.append(
            f"{health.num_own_faults} connections failed on this side: out of descriptors, ports or memory. hint: "
            "raise ulimit -n, or ask for less."
        )
    return tuple(reasons)


async def watch_loop(clock: Callable[[], float], lags: list[float]) -> None:
    """Adds how late each tick of a timer came, until it is cancelled.

    Ticks that a long stall swallowed count with what was left of it: else it would be one late tick among many.
    """
    while True:
        due = clock() + LOOP_TICK_S
        await asyncio.sleep(LOOP_TICK_S)
        late = max(0.0, clock() - due)
        lags.append(late)
        lags.extend(late - LOOP_TICK_S * missed for missed in range(1, 1 + int(late / LOOP_TICK_S)))
