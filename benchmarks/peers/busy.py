"""Gaps between one stream's tokens while another process keeps a core busy, beside those of the idle machine.

    make bench-busy                                     penstock and llama-server, 5 rounds, some minutes
    make bench-busy ARGS="--rounds 9 --only penstock"

Each round starts each server anew and asks it for two streamed answers: one in peace, one beside a process that never
sleeps and may run on one core only; which comes first changes from round to round. Both servers have as many threads as
there are cores, so that one of their threads has half a core: waiting for that one costs a ratio of 2.
Knows nothing about what a server does about that. Invariant: a ratio is of two answers of one server process.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.pages import expect_table, fill
from benchmarks.peers import checkpoints, environment
from benchmarks.peers.child import PeerFailed
from benchmarks.peers.served import FORMAT, LLAMA_SERVER, PENSTOCK, Bench, ServedWork, load
from benchmarks.peers.works import CONTENDERS, LLAMA, chosen

from penstock.bench import (
    Estimate,
    LoadRun,
    Record,
    Table,
    markdown,
    measure_machine,
    read_origin,
    spread,
    timing_of,
    write_record,
)
from penstock.bench.stats import compare_rounds, median, quantile

WORK = ServedWork("busy", 1, prompt_tokens=64, output_tokens=96)
SETTLE_S = 0.5  # the scheduler finds out who is busy
BURN = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); print(flush=True)\nwhile True: pass"
SECOND = 500  # prompts of a round's second answer are of no other round
MS = 1e3
STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": fmean,
    "p50": lambda gaps: quantile(gaps, 0.5).value,
    "p95": lambda gaps: quantile(gaps, 0.95).value,
}
Figures = dict[str, Any]


@dataclass
class Gaps:
    """One server's gaps in seconds, a list a round; the two lists belong together.

    Attributes:
        idle: of the machine without the other process.
        busy: with it.
        late: rounds in which the client itself was late by its own bound.
    """

    idle: list[list[float]] = field(default_factory=list)
    busy: list[list[float]] = field(default_factory=list)
    late: int = 0


@contextmanager
def busy_core(core: int) -> Iterator[int]:
    """Another process keeps this core busy; yields its number.

    Raises:
        PeerFailed: it may not run there.
    """
    with subprocess.Popen(
        [sys.executable, "-c", BURN, str(core)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise PeerFailed(f"no process could be kept on core {core}.")
            time.sleep(SETTLE_S)
            yield process.pid
        finally:
            process.kill()


def gaps_of(run: LoadRun) -> list[float]:
    """The gaps of an answer's chunks.

    Raises:
        PeerFailed: there are too few to say anything.
    """
    found = [gap for seen in run.seen for gap in timing_of(seen).gaps_s]
    if len(found) < WORK.output_tokens // 2:
        raise PeerFailed(f"{WORK.output_tokens} tokens came in {len(found) + 1} chunks.")
    return found


def one_round(bench: Bench, server: str, round: int, core: int, found: Gaps) -> list[LoadRun]:
    """Adds both answers of a server; returns their runs."""
    runs: dict[bool, LoadRun] = {}
    with bench.fresh(server, WORK, round) as target:
        for at, burning in enumerate((bool(round % 2), not round % 2)):
            number = round + at * SECOND
            if burning:
                with busy_core(core):
                    runs[burning] = load(target, WORK, number)
            else:
                runs[burning] = load(target, WORK, number)
    idle, busy = gaps_of(runs[False]), gaps_of(runs[True])
    found.idle.append(idle)
    found.busy.append(busy)
    found.late += any(run.invalid for run in runs.values())
    return [runs[False], runs[True]]


def figures_of(server: str, gaps: Gaps) -> Figures:
    """Medians over rounds of each round's figures, and of the ratio of the two answers of each."""
    found: Figures = {"server": f"{server} {FORMAT}", "rounds": len(gaps.idle), "late": gaps.late}
    for name, statistic in STATISTICS.items():
        idle, busy = ([statistic(each) for each in side] for side in (gaps.idle, gaps.busy))
        found[name] = {
            "idle_s": asdict(median(idle)),
            "busy_s": asdict(median(busy)),
            "ratio": asdict(compare_rounds(idle, busy).ratio),
            "ratios": [b / a for a, b in zip(idle, busy, strict=True)],
        }
    return found


def table(rows: Sequence[Figures]) -> Table:
    """Each server, idle and busy."""

    def cell(row: Figures, name: str, what: str, factor: float) -> str:
        return spread(Estimate(**row[name][what]), factor)

    cells = [
        (
            row["server"],
            *(cell(row, name, what, MS) for what in ("idle_s", "busy_s") for name in ("p50", "p95")),
            *(cell(row, name, "ratio", 1.0) for name in STATISTICS),
            str(row["rounds"]) + f", the client late in {row['late']}" * bool(row["late"]),
        )
        for row in rows
    ]
    head = ("server", "idle ITL p50, ms", "p95", "busy ITL p50, ms", "p95", *(f"ratio of the {n}" for n in STATISTICS))
    return Table("One stream beside a process that keeps one core busy", (*head, "rounds"), tuple(cells))


def measure(
    bench: Bench, servers: Sequence[str], rounds: int, core: int, say: Callable[[str], None]
) -> tuple[dict[str, Gaps], list[LoadRun], dict[str, str]]:
    """(gaps by server, all runs, why what failed), interleaved."""
    found = {server: Gaps() for server in servers}
    runs: list[LoadRun] = []
    failed: dict[str, str] = {}
    for round in range(rounds):
        for server in [*servers[round % len(servers) :], *servers[: round % len(servers)]]:
            if server in failed:
                continue
            try:
                runs += one_round(bench, server, round, core, found[server])
            except PeerFailed as error:
                failed[server] = str(error)
                say(f"round {round + 1}  {server}: {error}")
                continue
            means = [fmean(side[-1]) * MS for side in (found[server].idle, found[server].busy)]
            say(f"round {round + 1}  {server}: {means[0]:.1f} ms idle, {means[1]:.1f} ms busy")
    return found, runs, failed


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="make bench-busy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="NAME,…", help=f"of {PENSTOCK}, {LLAMA_SERVER}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, help="that is kept busy; the last that this process may use")
    parser.add_argument("--quick", action="store_true", help="two layers, a round: figures mean nothing")
    parser.add_argument("--json", type=Path, help="file that takes the record")
    parser.add_argument("--page", type=Path, help="page whose table named busy is written anew")
    return parser.parse_args()


def say(line: str) -> None:
    """A line for people."""
    print(line, file=sys.stderr, flush=True)


def needed(quick: bool, with_peer: bool) -> tuple[Path, environment.Peers]:
    """The model's file and what there is of peers; made where it is missing.

    Raises:
        SystemExit: there is no model.
    """
    peers = environment.Peers()
    if with_peer:
        environment.find_server(peers, say)
    contender = next(each for each in CONTENDERS if each.name == f"penstock {FORMAT}")
    forms = checkpoints.Forms(checkpoints.folder_of(quick))
    if not forms.path(contender).exists() or (with_peer and peers.server is None):
        peers = environment.prepare([LLAMA], say)
        environment.find_server(peers, say)
        forms = checkpoints.prepare([contender], quick, peers, say)
    model = forms.path(contender)
    if not model.exists():
        raise SystemExit(f"error: {forms.failed.get(model.name, f'{model} is not there')}")
    return model, peers


def main() -> None:
    """Measures, prints and records."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started ends with this process
    try:
        servers = chosen([each for each in options.only.split(",") if each], (PENSTOCK, LLAMA_SERVER), "server")
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    expect_table(options.page, "busy")
    cores = sorted(os.sched_getaffinity(0))
    model, peers = needed(options.quick, LLAMA_SERVER in servers)
    machine = measure_machine(quick=options.quick)
    bench = Bench(model, len(cores), peers)
    core = cores[-1] if options.core is None else options.core
    gaps, runs, failed = measure(bench, servers, 1 if options.quick else options.rounds, core, say)
    rows = [figures_of(server, found) for server, found in gaps.items() if found.idle]
    if not rows:
        raise SystemExit(f"error: nothing was measured: {failed}")
    origin, text = read_origin(machine), markdown(table(rows))
    print(text)
    if options.page is not None:
        fill(options.page, "busy", text, origin)
    if options.json is not None:
        choices = {"work": asdict(WORK), "core": core, "rounds": options.rounds, "quick": options.quick}
        figures = {"servers": rows, "failed": failed}
        write_record(options.json, Record("figures", "busy", origin, choices, runs=tuple(runs), figures=figures))


if __name__ == "__main__":
    main()
