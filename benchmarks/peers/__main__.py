"""penstock beside its peers on one random-weight checkpoint: the same works, interleaved, two threads each.

    make bench-peers                                    everything, an hour; the machine should be idle
    make bench-peers ARGS="--quick"                     two layers, few steps: only whether it runs
    make bench-peers ARGS="--work decode-1,prefill-512 --only penstock,llama.cpp --rounds 5"

What is measured, and how, is in docs/peers.md. Environments and checkpoints are made below build/peers once; PEERS_VENV
and PEERS_VLLM_VENV name environments that exist, LLAMA_SERVER a llama-server.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import checkpoints, environment, page, plots, results, served, served_results
from benchmarks.peers.child import ROOT
from benchmarks.peers.limits import Limits
from benchmarks.peers.rounds import Pace, Unit, measure, units_of
from benchmarks.peers.served import Served
from benchmarks.peers.session import Session, quiet
from benchmarks.peers.works import CONTENDERS, QUICK_WORKS, SERVED, WORKS, Contender, Work, chosen, room

from penstock.bench import MachineLimits, Record, measure_machine, read_origin, write_record

RECORDS = ROOT / "benchmarks/records"
ROUNDS, QUICK_ROUNDS, SERVED_ROUNDS = 5, 2, 3
BUDGET_S, SERVED_BUDGET_S = 30.0, 120.0
TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Chosen:
    """What this run measures."""

    contenders: list[Contender]
    works: list[Work]
    served: tuple[str, ...]
    rounds: int
    served_rounds: int
    options: argparse.Namespace


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="make bench-peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ", ".join([*(work.name for work in WORKS), *SERVED])
    parser.add_argument("--only", default="", metavar="NAME,…", help="peers, by the beginnings of their names")
    parser.add_argument("--work", default="", metavar="NAME,…", help=f"by the beginnings of: {known}")
    parser.add_argument("--rounds", type=int, help=f"of works in process; {ROUNDS} if left out")
    parser.add_argument("--served-rounds", type=int, help=f"of served works; {SERVED_ROUNDS} if left out")
    parser.add_argument(
        "--budget", type=float, default=BUDGET_S, help="seconds of one contender at one work, all rounds"
    )
    parser.add_argument(
        "--served-budget", type=float, default=SERVED_BUDGET_S, help="seconds of one server at one load, all rounds"
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds of one order")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="two layers, few steps, two rounds: figures mean nothing")
    parser.add_argument("--out", type=Path, help="folder of peers.json, peers.md and the plots; benchmarks/records")
    return parser.parse_args()


def split(text: str) -> list[str]:
    """The parts of a list on the command line."""
    return [part.strip() for part in text.split(",") if part.strip()]


def choose(options: argparse.Namespace) -> Chosen:
    """What the command line asks for.

    Raises:
        ValueError: a name is unknown, or a number makes no sense.
    """
    works = QUICK_WORKS if options.quick else WORKS
    names = chosen(split(options.work), [*(work.name for work in works), *SERVED], "work")
    peers = set(chosen(split(options.only), [contender.name for contender in CONTENDERS], "peer"))
    rounds = options.rounds if options.rounds is not None else QUICK_ROUNDS if options.quick else ROUNDS
    served_rounds = (
        options.served_rounds if options.served_rounds is not None else 1 if options.quick else SERVED_ROUNDS
    )
    if min(rounds, served_rounds, options.threads) < 1:
        raise ValueError("rounds and threads are at least 1.")
    return Chosen(
        contenders=[contender for contender in CONTENDERS if contender.name in peers],
        works=[work for work in works if work.name in names],
        served=tuple(name for name in SERVED if name in names),
        rounds=rounds,
        served_rounds=served_rounds,
        options=options,
    )


def say(line: str) -> None:
    """A line for people."""
    print(line, file=sys.stderr, flush=True)


def in_process(asked: Chosen, peers: environment.Peers, forms: checkpoints.Forms) -> tuple[list[Unit], Session]:
    """Every contender at every work, and the session, closed, with what the contenders said of themselves."""
    units = units_of(asked.contenders, asked.works)
    options = asked.options
    own = Path(sys.executable)
    size = room(asked.works) if asked.works else {}
    with Session(peers, own, forms, size, options.threads, options.timeout) as session:
        measure(units, Pace(asked.rounds, options.budget, time.perf_counter), session.ask, say)
    return units, session


def tables(asked: Chosen, rows: list[dict[str, Any]], session: Session, failed: dict[str, str]) -> list[results.Table]:
    """All tables of the works in process."""
    found = [results.summary_table(rows)]
    for work in asked.works:
        if here := [row for row in rows if row["work"] == work.name]:
            found.append(results.work_table(here))
    found.append(results.notes_table(asked.contenders, session.loaded))
    found.append(results.failures_table(rows, failed))
    return found


@dataclass(frozen=True)
class Measured:
    """What came of it: the limits before and after, the units, what contenders said, runs of load, and failures."""

    machines: tuple[MachineLimits, MachineLimits]
    units: list[Unit]
    session: Session
    served: list[Served]
    failed: dict[str, str]


def serve_all(asked: Chosen, peers: environment.Peers, forms: checkpoints.Forms) -> tuple[list[Served], dict[str, str]]:
    """The servers at their loads, and why some failed."""
    names = {contender.peer for contender in asked.contenders if contender.format == served.FORMAT}
    servers = [served.PENSTOCK] * ("penstock" in names)
    servers += [served.LLAMA_SERVER, served.LLAMA_PYTHON] * ("llama.cpp" in names)
    model = forms.folder / f"{served.FORMAT}.gguf"
    works = served_works(asked)
    if not servers or not works:
        return [], {}
    if not model.exists():
        return [], {"served": forms.failed.get(model.name, f"{model} is not there")}
    bench = served.Bench(model, asked.options.threads, peers)
    pace = Pace(asked.served_rounds, asked.options.served_budget, time.perf_counter)
    units = served.measure(bench.run, servers, works, pace, say)
    return units, {f"{unit.server}, {unit.work.name}": unit.error for unit in units if unit.error is not None}


def served_works(asked: Chosen) -> list[served.ServedWork]:
    """The loads that were asked for."""
    known = served.QUICK_SERVED if asked.options.quick else served.SERVED_WORKS
    return [work for work in known if work.name in asked.served]


def write(asked: Chosen, peers: environment.Peers, forms: checkpoints.Forms, found: Measured) -> None:
    """Writes the record, the tables and the plots."""
    limits = Limits(forms.folder, found.machines[0])
    rows = [results.figures_of(unit, limits) for unit in found.units]
    loads = served_results.rows_of(found.served)
    failed = {**peers.failed, **forms.failed, **found.failed}
    shown = [*tables(asked, rows, found.session, failed), page.limits_table(*found.machines)]
    shown.insert(1, served_results.table(loads))
    figures = {
        "units": rows,
        "versions": peers.versions,
        "contenders": found.session.loaded,
        "served": loads,
        "failed": failed,
        "machine_after": asdict(found.machines[1]),
    }
    folder = asked.options.out or RECORDS
    runs = tuple(run for unit in found.served for run in unit.runs)
    configuration = {"rounds": asked.rounds, "quick": asked.options.quick, "threads": asked.options.threads}
    record = Record("figures", "peers", read_origin(found.machines[0]), configuration, runs=runs, figures=figures)
    write_record(folder / "peers.json", record)
    text = page.page(record.origin, asked.options.quick, shown, plots.write(rows, folder))
    (folder / "peers.md").write_text(text)
    print(text)


def main() -> None:
    """Makes what is missing, measures, writes."""
    options = arguments()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # servers and drivers end with this process
    try:
        asked = choose(options)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    packages = [contender.package for contender in asked.contenders if contender.package is not None]
    needed = {*packages, *(maker[1] for c in asked.contenders if (maker := checkpoints.MAKERS.get(c.driver)))}
    peers = environment.prepare(sorted(needed), say)
    if asked.served and environment.LLAMA in needed:
        environment.find_server(peers, say)
    forms = checkpoints.prepare(asked.contenders, options.quick, peers, say)
    os.environ.update({"HF_HUB_OFFLINE": "1"})
    quiet("the machine's limits", say)
    before = measure_machine(options.threads, quick=options.quick)
    units, session = in_process(asked, peers, forms)
    runs, failed = serve_all(asked, peers, forms)
    after = measure_machine(options.threads, quick=options.quick)
    write(asked, peers, forms, Measured((before, after), units, session, runs, failed))


if __name__ == "__main__":
    main()
