"""Time of one turn of the control loop: drain, plan, commit, emission, without the forward.

The engine, scheduler and KV manager are the real ones; the backend is the cost model, whose own time is taken off. Each
round measures the loop alone and then with as many connected readers (an event loop in another thread), so that the two
are compared within one run. What a native backend adds to build its arguments is measured by its own benchmark.

    python benchmarks/engine_loop.py --rows 64 --context 2048 --out benchmarks/records/engine_loop.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock.core import EngineConfig, KvGroup, Request, SamplingParams
from penstock.engine import Engine, EventStream
from penstock.kv import KvManager
from penstock.sched import Scheduler
from penstock.sim import CostBackend, Costs, VirtualClock

WARM_STEPS = 50
VOCAB = 32_000


class Letters:
    """A decoder as cheap as one can be: what text costs is measured in its own room."""

    def stream(self, skip_special_tokens: bool, after: int | None = None) -> Letters:
        return self

    def push(self, tokens: Any) -> str:
        return "a" * len(tokens)

    def flush(self) -> str:
        return ""


class Stopwatch:
    """Seconds spent in some methods of an object."""

    def __init__(self, target: object, *names: str) -> None:
        self.spent_s = 0.0
        for name in names:
            setattr(target, name, self._timed(getattr(target, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = method(*arguments)
            self.spent_s += time.perf_counter() - start
            return result

        return timed


class Readers:
    """Connected clients: an event loop in a thread of its own that reads every stream."""

    def __init__(self, streams: list[EventStream]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        for stream in streams:
            asyncio.run_coroutine_threadsafe(self._read(stream), self._loop)

    async def _read(self, stream: EventStream) -> None:
        async for events in stream:
            for event in events:
                json.dumps({"text": event.text})

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def measure(rows: int, context: int, steps: int, connected: bool) -> dict[str, float]:
    """Microseconds a step: the turn without the backend (median, p99) and the medians of its shares."""
    total = context + WARM_STEPS + steps + 16
    config = EngineConfig(
        max_model_tokens=total,
        vocab_size=VOCAB,
        pages=(rows * (total // 32 + 2),),
        max_running=rows,
        max_step_tokens=max(2048, rows),
    )
    groups = (KvGroup("full", (0,), 32 * 1024),)
    clock = VirtualClock()
    backend = CostBackend(groups, 32, Costs(1e9, 1e9, 1e12, 1e11), clock, VOCAB)
    backend_watch = Stopwatch(backend, "submit", "finish")
    scheduler = _Open(config, KvManager(groups, config))
    plan_watch, commit_watch = Stopwatch(scheduler, "plan"), Stopwatch(scheduler, "commit")
    engine = Engine(config, scheduler, backend, Letters())
    params = SamplingParams(max_tokens=total - context, ignore_eos=True, seed=1)
    streams = [engine.submit(Request(f"r{row}", tuple(range(row, row + context)), params), 0.0) for row in range(rows)]
    while engine.snapshot.output_tokens < rows * WARM_STEPS:
        engine.step(clock)
        for stream in streams:
            stream.take()
    readers = Readers(streams) if connected else None
    turns: list[float] = []
    shares: list[tuple[float, float, float]] = []
    watches = (backend_watch, plan_watch, commit_watch)
    for _ in range(steps):
        before, start = [watch.spent_s for watch in watches], time.perf_counter()
        engine.step(clock)
        whole_s = time.perf_counter() - start
        backend_s, plan_s, commit_s = (watch.spent_s - spent for watch, spent in zip(watches, before, strict=True))
        turns.append(whole_s - backend_s)
        shares.append((plan_s, commit_s, whole_s - backend_s - plan_s - commit_s))
        if readers is None:
            for stream in streams:
                stream.take()
        else:
            time.sleep(0.001)  # where the forward would run with the GIL released
    if readers is not None:
        readers.close()
    return {
        "turn_us_median": 1e6 * statistics.median(turns),
        "turn_us_p99": 1e6 * sorted(turns)[int(0.99 * len(turns))],
        "plan_us": 1e6 * statistics.median(share[0] for share in shares),
        "commit_us": 1e6 * statistics.median(share[1] for share in shares),
        "engine_us": 1e6 * statistics.median(share[2] for share in shares),
    }


class _Open(Scheduler):
    """The scheduler with a dictionary, so that its methods can be timed."""


def main() -> None:
    """Prints both figures as a table and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rounds = []
    for _ in range(options.rounds):
        for connected in (False, True):
            figures = measure(options.rows, options.context, options.steps, connected)
            rounds.append({"connected": options.rows if connected else 0, **figures})
            print(" ".join(f"{name}={value:.1f}" for name, value in rounds[-1].items()))
    if options.out is not None:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        record = {
            "commit": commit,
            "machine": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "rows": options.rows,
            "context": options.context,
            "rounds": rounds,
        }
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
