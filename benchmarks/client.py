"""The load generator measured: how true its figures are, what a streamed token costs it, how many requests it can send.

Accuracy is against the scripted server of the tests, which logs when it really sent what. Cost and rate are against a
server that does as little as possible, in a process of its own: answers of 16 tokens, one every 20 ms, each in a write
of its own. The rate grows until one is refused twice. The machine should be idle otherwise.

    python benchmarks/client.py --json benchmarks/records/client.json --page docs/benchmarking.md
    python benchmarks/client.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from record_tables import expect_tables, show
from records import ROOT, write_record

from penstock.bench import Ask, Endpoint, Outcome, RunPlan, RunResult, Timing, run, timing_of

TOKENS = 16
GAP_S = 0.02
GROWTH = 1.25
START_RATE = 50.0
MAX_RATE = 20_000.0
MAX_REFUSALS = 2  # of one rate
EVENT = b'data: {"id":"x","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null}]}\n\n'  # noqa: E501
LAST = EVENT.replace(b'"finish_reason":null', b'"finish_reason":"length"')
USAGE = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":%d}}\n\ndata: [DONE]\n\n' % TOKENS
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CASES: dict[str, dict[str, Any]] = {
    "first 40 ms, gaps 10 ms": {"first_ms": 40, "gap_ms": 10, "chunks": 12},
    "first 120 ms, gaps 5 ms": {"first_ms": 120, "gap_ms": 5, "chunks": 4},
    "an empty chunk first": {"first_ms": 60, "gap_ms": 10, "chunks": 6, "empty_first": True},
    "four tokens a chunk": {"first_ms": 30, "gap_ms": 20, "chunks": 5, "per_chunk": 4},
    "a silent last token": {"first_ms": 30, "gap_ms": 20, "chunks": 5, "silent_last": True},
    "events cut in seven": {"first_ms": 30, "gap_ms": 10, "chunks": 6, "pieces": 7},
}
TRUE: dict[str, tuple[Callable[[Timing], float | None], Callable[[list[float], float, Any], float]]] = {
    "TTFT": (lambda timing: timing.ttft_sent_s, lambda sent, got, script: sent[0] - got),
    "E2E": (lambda timing: timing.e2e_sent_s, lambda sent, got, script: sent[-1] - got),
    "TPOT": (lambda timing: timing.tpot_s, lambda sent, got, script: (sent[-1] - sent[0]) / (script.tokens - 1)),
    "stall": (lambda timing: timing.stall_s, lambda sent, got, script: float(max(np.diff(sent[: script.chunks])))),
}


class Least(asyncio.Protocol):
    """A server that does as little as possible: every write of bytes is a request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.loop = asyncio.get_running_loop()
        self.seen = b""

    def data_received(self, data: bytes) -> None:
        self.seen += data
        if self.seen.endswith(b"}"):
            self.seen = b""
            self.transport.write(HEAD)
            self.loop.call_later(GAP_S, self.token, TOKENS)

    def token(self, left: int) -> None:
        event = EVENT if left > 1 else LAST + USAGE
        end = b"" if left > 1 else b"0\r\n\r\n"
        self.transport.write(b"%x\r\n%b\r\n%b" % (len(event), event, end))
        if left > 1:
            self.loop.call_later(GAP_S, self.token, left - 1)


def serve_least(descriptor: int) -> None:
    """Serves on a listening socket until it is killed."""
    import uvloop

    async def main() -> None:
        listener = socket.socket(fileno=descriptor)
        server = await asyncio.get_running_loop().create_server(Least, sock=listener)
        await server.serve_forever()

    uvloop.run(main())


def accuracy(repeats: int) -> list[dict[str, Any]]:
    """For each case and metric: the truth, what was measured, and the error, in ms."""
    sys.path.insert(0, str(ROOT))
    stub_server = importlib.import_module("tests.bench.stub_server")
    rows = []
    with stub_server.Stub() as stub:
        for name, fields in CASES.items():
            scripts = [stub_server.Script(**fields, tag=tag) for tag in range(repeats)]
            asks = [Ask(tag, tag * 0.03, script.prompt, None, 1) for tag, script in enumerate(scripts)]
            before = len(stub.log())
            result = run(RunPlan(Endpoint(stub.url, "m"), warm_connections=8), asks)
            log = {entry["tag"]: entry for entry in stub.log()[before:]}
            for metric, (measured, true) in TRUE.items():
                truths = [true(log[tag]["sent"], log[tag]["received"], scripts[tag]) for tag in range(repeats)]
                values = [measured(timing_of(one)) for one in result.seen]
                errors = [value - truth for value, truth in zip(values, truths, strict=True)]
                rows.append(
                    {
                        "case": name,
                        "metric": metric,
                        "true_ms": statistics.median(truths) * 1e3,
                        "measured_ms": statistics.median(values) * 1e3,
                        "error_ms": statistics.median(errors) * 1e3,
                        "p99_error_ms": float(np.percentile(np.abs(errors), 99)) * 1e3,
                    }
                )
    return rows


def load(url: str, rate: float, seconds: float, processes: int) -> RunResult:
    """A run of evenly spread requests at that rate."""
    asks = [Ask(i, i / rate, "Once upon a time", None, TOKENS) for i in range(int(rate * seconds))]
    warm = int(min(rate * TOKENS * GAP_S * 1.2 + 8, 10_000))
    return run(RunPlan(Endpoint(url, "m"), processes=processes, warm_connections=warm), asks)


def row_of(result: RunResult, rate: float, processes: int) -> dict[str, Any]:
    """The figures of a run."""
    tokens = sum(len(one.chunks_s) for one in result.seen)
    spent = result.health.cpu_share * result.duration_s
    return {
        "processes": processes,
        "rate": rate,
        "ok": sum(one.outcome is Outcome.OK for one in result.seen) / len(result.seen),
        "invalid": list(result.invalid),
        "health": asdict(result.health),
        "tokens_per_s": tokens / result.duration_s,
        "client_ms_per_1000_tokens": spent / max(tokens / processes, 1) * 1e6,
    }


def highest(try_rate: Callable[[float], dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs at growing rates up to the first that is refused twice: one stall of the machine ends nothing."""
    rows: list[dict[str, Any]] = []
    rate, refusals = START_RATE, 0
    while rate < MAX_RATE and refusals < MAX_REFUSALS:
        rows.append(row := try_rate(rate))
        if row["invalid"] or row["ok"] < 1:
            refusals += 1
        else:
            rate, refusals = rate * GROWTH, 0
    return rows


def main() -> None:
    """Measures and prints; `--serve` is the process of the least server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="short, low rates: only whether it runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="page whose tables of the client are written anew")
    parser.add_argument("--serve", type=int, metavar="DESCRIPTOR", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve_least(arguments.serve)
        return
    expect_tables(arguments.page, "client")
    rows = accuracy(5 if arguments.quick else arguments.repeats)
    print("| case | metric | true ms | measured ms | error ms | p99 error ms |\n|---|---|---|---|---|---|")
    for row in rows:
        numbers = (f"{row[name]:.2f}" for name in ("true_ms", "measured_ms", "error_ms", "p99_error_ms"))
        print(f"| {row['case']} | {row['metric']} | {' | '.join(numbers)} |")
    rates = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, __file__, "--serve", str(listener.fileno())]
        server = subprocess.Popen(command, pass_fds=[listener.fileno()])
    try:
        for processes in map(int, arguments.processes.split(",")):
            if arguments.quick:
                load(url, 20.0, 1.0, processes)
            else:
                rates += highest(lambda rate, n=processes: row_of(load(url, rate, arguments.seconds, n), rate, n))
    finally:
        server.kill()
        server.wait()
    print("\n| processes | req/s | tok/s | good | send lag p99 ms | loop lag p99 ms | ms CPU / 1000 tok | valid |")
    print("|---" * 8 + "|")
    for row in rates:
        health = row["health"]
        cells = [str(row["processes"]), f"{row['rate']:,.0f}", f"{row['tokens_per_s']:,.0f}", f"{row['ok']:.1%}"]
        cells += [f"{health[name]['p99_s'] * 1e3:.1f}" for name in ("send_lag", "loop_lag")]
        cells += [f"{row['client_ms_per_1000_tokens']:.1f}", "no" if row["invalid"] else "yes"]
        print(f"| {' | '.join(cells)} |")
    figures = {"accuracy": rows, "rates": rates}
    show(write_record(arguments.json, "client", figures, seconds=arguments.seconds), arguments.page)


if __name__ == "__main__":
    main()
