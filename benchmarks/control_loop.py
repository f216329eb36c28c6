"""Microseconds of plan + commit a step, for 1 … 1024 decoding sequences at 2,048 tokens of context.

Run with nothing else on the machine: `python benchmarks/control_loop.py`. Prints one JSON line a row count.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time

from penstock.core import EngineConfig, KvGroup, Request, RowResult, SamplingParams, StepResult
from penstock.kv import KvManager
from penstock.sched import Scheduler

VOCAB = 1000


def prepare(rows, context, steps, page_tokens):
    """A scheduler in which `rows` sequences have their prompts computed."""
    pages = rows * -(-(context + steps + 64) // page_tokens)
    config = EngineConfig(
        context + steps + 64, VOCAB, (pages,), max_step_tokens=rows * context, max_running=rows, page_tokens=page_tokens
    )
    scheduler = Scheduler(config, KvManager((KvGroup("full", (0,), 1),), config))
    for i in range(rows):
        prompt = tuple((i * 31 + j * 7) % VOCAB for j in range(context))
        sampling = SamplingParams(seed=i, max_tokens=steps + 60, ignore_eos=True)
        scheduler.add(Request(f"r{i}", prompt, sampling, eos_token_ids=(0,)), 0.0)
    return scheduler


def measure(rows, context, steps, page_tokens):
    """Microseconds of each step that holds one decode row for every sequence."""
    scheduler = prepare(rows, context, steps, page_tokens)
    took = []
    now = 0.0
    while len(took) < steps:
        began = time.perf_counter()
        plan = scheduler.plan(now)
        planned = time.perf_counter()
        results = tuple([RowResult((5,)) if row.output.sample else RowResult() for row in plan.rows])
        result = StepResult(plan.step, results, 1e-3)
        now += 1e-3
        resumed = time.perf_counter()
        scheduler.commit(plan, result, now)
        done = time.perf_counter()
        if len(plan.rows) == rows and all(row.num_tokens == 1 for row in plan.rows):
            took.append(1e6 * (planned - began + done - resumed))
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64, 256, 1024])
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--page-tokens", type=int, default=32)
    options = parser.parse_args()
    for rows in options.rows:
        took = measure(rows, options.context, options.steps, options.page_tokens)
        record = {
            "benchmark": "control_loop",
            "machine": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "rows": rows,
            "context": options.context,
            "steps": options.steps,
            "median_us": round(statistics.median(took), 1),
            "p99_us": round(sorted(took)[int(0.99 * (len(took) - 1))], 1),
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
