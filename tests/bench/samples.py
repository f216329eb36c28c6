"""Made-up runs whose true figures are known: a queue with one server, by the book."""

import numpy as np

from penstock.bench.compare import order
from penstock.bench.health import Health, Lag
from penstock.bench.machine import Limit, MachineLimits
from penstock.bench.origin import Origin
from penstock.bench.records import Counted, Outcome, Seen, Window
from penstock.bench.stats import Estimate
from penstock.bench.store import Asked, LoadRun, Record

HEALTH = Health(Lag(10, 1e-4, 2e-4, 3e-4), Lag(10, 1e-4, 2e-4, 3e-4), 0.05)


def limits():
    rates = {"read": 30.0, "dot": 900.0, "fma": 200.0}
    return MachineLimits(
        "avx2", 2, 1 << 30, False,
        tuple(
            Limit(what, threads, streams, Estimate(rate * threads / 2, rate * threads / 2.2, rate * threads / 1.9, 15))
            for threads in (1, 2)
            for what, rate in rates.items()
            for streams in ((1, 4) if what == "read" else (0,))
        ),
    )  # fmt: skip


def origin():
    return Origin("0.1.0", "abc1234+", "2026-01-02 03:04 UTC", "A CPU", "Linux", 1 << 34, "3.11.7", "avx2", 2, limits())


def seen_of(id, arrival, start, tokens=8, gap=0.01, ttft=0.02):
    """A request that is served from `start` on: its first token `ttft` later, then one every `gap`."""
    chunks = [start + ttft + gap * i for i in range(tokens)]
    return Seen(
        id, arrival, sent_s=arrival + 1e-4, headers_s=start, chunks_s=chunks, finish_s=chunks[-1],
        end_s=chunks[-1] + 1e-4, outcome=Outcome.OK, status=200, prompt_tokens=16, cached_tokens=0,
        output_tokens=tokens, counted=Counted.USAGE, finish_reason="length",
    )  # fmt: skip


def queue_run(rate, capacity, duration_s=30.0, seed=0, label="A", round=0, refuse_after=None):
    """Poisson arrivals at one server that takes 1 / capacity for each: an open queue.

    `refuse_after`: requests that would wait longer are refused with 429.
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, int(rate * duration_s * 1.3) + 5))
    free, seen = 0.0, []
    for id, arrival in enumerate(float(a) for a in arrivals[arrivals < duration_s]):
        begin = max(free, arrival)
        if refuse_after is not None and begin - arrival > refuse_after:
            seen.append(
                Seen(id, arrival, sent_s=arrival, headers_s=arrival + 1e-3, end_s=arrival + 1e-3, status=429,
                     outcome=Outcome.REFUSED, retry_after_s=1.0, error="queue full")
            )  # fmt: skip
            continue
        free = begin + 1 / capacity
        tokens = 8
        seen.append(seen_of(id, arrival, begin, tokens, gap=0.5 / capacity / tokens, ttft=0.5 / capacity))
    asked = tuple(Asked(one.id, 16, 8) for one in seen)
    window = Window(duration_s * 0.1, duration_s)
    duration = max(one.end_s for one in seen)
    return LoadRun(label, window, HEALTH, (), asked, tuple(seen), duration, rate=rate, round=round)


def turns(rounds):
    """(label, round) of a comparison in the order of running."""
    return [(label, round) for round in range(rounds) for label in order(("A", "B"), round)]


def record(kind="serve", runs=(), **fields):
    return Record(
        kind, f"a {kind}", origin(), {"endpoint": {"url": "http://127.0.0.1:1/v1"}}, runs=tuple(runs), **fields
    )
