import asyncio
import time

import pytest

from penstock.bench.health import Health, Lag, LagBounds, invalid_because, lag_of, merged, send_lag, watch_loop
from penstock.bench.records import Seen

GOOD = Lag(10, 0.001, 0.002, 0.003)


def health(send: float = 0.0, loop: float = 0.0, **counts: int) -> Health:
    return Health(Lag(10, send / 2, send, send), Lag(10, loop / 2, loop, loop), 0.5, **counts)


def test_lag_is_of_what_the_client_did() -> None:
    seen = [
        Seen(0, 1.0, sent_s=1.001),
        Seen(1, 1.0, sent_s=1.102, connect_s=0.1),  # the network's share
        Seen(2, 1.0, sent_s=9.0),  # held back on purpose
        Seen(3, 1.0),  # never sent
    ]
    found = send_lag(seen, {2})
    assert (found.count, found.p50_s, found.max_s) == pytest.approx((2, 0.0015, 0.002))
    assert send_lag(seen, set()).max_s == 8.0
    assert lag_of([]) == Lag(0, 0.0, 0.0, 0.0)


def test_past_either_bound_a_run_is_invalid() -> None:
    bounds = LagBounds(0.02, 0.03)
    assert invalid_because(health(0.02, 0.03), bounds) == ()
    (sent,) = invalid_because(health(0.021, 0.03), bounds)
    assert "sent late" in sent and "21.0 ms" in sent and "20 ms" in sent
    (loop,) = invalid_because(health(0.02, 0.031), bounds)
    assert "event loop" in loop
    assert len(invalid_because(health(1, 1), bounds)) == 2
    (own,) = invalid_because(health(num_own_faults=3), bounds)
    assert own.startswith("3 connections failed on this side")


def test_several_clients_are_as_good_as_the_worst() -> None:
    one, two = (
        health(0.01, 0.004, num_held=1, num_connections=3, num_own_faults=1),
        health(0.002, 0.02, num_held=2, num_abandoned=5),
    )
    found = merged([one, two])
    assert (found.send_lag.p99_s, found.loop_lag.p99_s) == (0.01, 0.02)
    assert (found.num_held, found.num_connections, found.num_abandoned, found.processes) == (3, 3, 5, 2)
    assert (found.send_lag.count, found.num_own_faults) == (20, 1)


def test_a_stall_of_the_loop_weighs_as_long_as_it_is() -> None:
    async def scenario() -> list[float]:
        lags: list[float] = []
        watcher = asyncio.create_task(watch_loop(time.monotonic, lags))
        await asyncio.sleep(0.05)
        time.sleep(0.2)
        await asyncio.sleep(0.03)
        watcher.cancel()
        return lags

    lags = asyncio.run(scenario())
    assert max(lags) > 0.15
    assert sum(lag > 0.05 for lag in lags) >= 10  # one tick alone would be outvoted
