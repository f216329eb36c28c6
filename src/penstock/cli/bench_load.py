"""`penstock bench serve|sweep|compare`: load on one server, at growing rates, or on two by turns.

Knows nothing about metrics. Invariant: a run whose client was too slow exits with 1, after all that it saw is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import bench_show, options
from penstock.cli.bench_flags import (
    LoadFlags,
    endpoint_of,
    is_local,
    objectives_of,
    opened,
    takes_load,
    workload_of,
)
from penstock.core import PenstockError

if TYPE_CHECKING:
    from penstock.bench import Endpoint, LoadRun, Origin, Record, Sweep, Table, Target, Workload

Url = Annotated[str, typer.Argument(metavar="URL", help="The server, such as http://127.0.0.1:8000.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="Model; the server's first one if left out.")]
Arrive = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="poisson:4, gamma:4,0.5, constant:4, bursts:1,20,30,5, ramp:1,20,60 or closed:16; a trace has its own.",
    ),
]
Burstiness = Annotated[
    float | None, typer.Option(metavar="SHAPE", help="Gamma arrivals of that shape: below 1 burstier than Poisson.")
]
Start = Annotated[float, typer.Option(metavar="RATE", help="First rate, requests a second.")]
Growth = Annotated[float, typer.Option(metavar="X", help="Each next rate is so many times the one before.")]
MaxRate = Annotated[float, typer.Option(metavar="RATE", help="None beyond it.")]
Refine = Annotated[int, typer.Option(min=0, metavar="N", help="Rates in between, around the knee.")]
Rounds = Annotated[int, typer.Option(min=1, metavar="N", help="Runs of each, interleaved.")]


@takes_load
def serve(url: Url, model: Model = None, arrivals: Arrive = None, *, load: LoadFlags) -> None:
    """Load a server and show its latencies, rates and goodput."""
    from penstock import bench

    check_load(load)
    chosen = bench.parse_arrivals(arrivals) if arrivals else None
    endpoint, context = endpoint_of(url, model, load)
    with opened("server", endpoint, load) as target:
        workload = workload_of(load, chosen, context, load.seed, target.maker)
        told(workload)
        bench.check_warmup(load.warmup, workload.ends_s)
        origin = origin_of(load, [endpoint])
        with bench_show.progress("load") as report:
            run = bench.drive(target, workload, report=report)
    cut = KeyboardInterrupt() if run.interrupted else None
    if cut is not None and not run.seen:
        raise cut
    record = record_of("serve", origin, [endpoint], (run,), load, workload)
    bench_show.save(record, load.json, load.html)
    tables = [] if run.invalid else [bench.latency_table(run), bench.rates_table(run, record.objectives, load.price)]
    if cut is not None:
        options.tell(f"interrupted after {run.duration_s:.3g} s: the figures are of what was sent until then")
    finish(record, tables, cut=cut)


@takes_load
def sweep(
    url: Url,
    model: Model = None,
    burstiness: Burstiness = None,
    start: Start = 1.0,
    growth: Growth = 2.0,
    max_rate: MaxRate = 1e4,
    refine: Refine = 3,
    rounds: Rounds = 1,
    *,
    load: LoadFlags,
) -> None:
    """Load a server at growing rates, and find the rate at which it falls behind."""
    from penstock import bench

    check_load(load)
    plan = bench.SweepPlan(start=start, growth=growth, max_rate=max_rate, refine=refine, rounds=rounds)
    endpoint, context = endpoint_of(url, model, load)
    with opened("server", endpoint, load) as target:

        def at(rate: float, round: int) -> Workload:
            kind = bench.Poisson(rate) if burstiness is None else bench.Gamma(rate, burstiness)
            return workload_of(load, kind, context, load.seed + round, target.maker)

        runs: list[LoadRun] = []

        def one(rate: float, round: int) -> LoadRun:
            with bench_show.progress(f"{rate:g}/s") as report:
                return kept(bench.drive(target, at(rate, round), round=round, rate=rate, report=report), runs)

        first = at(start, 0)
        bench.check_warmup(load.warmup, first.ends_s)
        origin = origin_of(load, [endpoint])
        cut = until_cut(lambda: bench.run_sweep(one, plan, options.tell), runs)
    record = record_of("sweep", origin, [endpoint], tuple(runs), load, first)
    bench_show.save(record, load.json, load.html)
    found = bench.analyse(runs, record.objectives)
    finish(record, [bench.sweep_table(found.points)], [*findings(found), *found.notes], cut)


@takes_load
def compare(
    url_a: Annotated[str, typer.Argument(metavar="URL_A", help="One server.")],
    url_b: Annotated[str, typer.Argument(metavar="URL_B", help="The other.")],
    model_a: Model = None,
    model_b: Model = None,
    arrivals: Arrive = None,
    rounds: Rounds = 6,
    *,
    load: LoadFlags,
) -> None:
    """Load two servers by turns with the same work, and say whether the difference is real."""
    from penstock import bench

    check_load(load)
    chosen = bench.parse_arrivals(arrivals) if arrivals else None
    found = [endpoint_of(url, model, load) for url, model in ((url_a, model_a), (url_b, model_b))]
    endpoints = [endpoint for endpoint, _ in found]
    shortest = min((length for _, length in found if length is not None), default=None)
    with ExitStack() as stack:
        targets = sides(endpoints, load, stack)

        def at(label: str, round: int) -> Workload:
            return workload_of(load, chosen, shortest, load.seed + round, targets[label].maker)

        runs: list[LoadRun] = []

        def one(label: str, round: int) -> LoadRun:
            with bench_show.progress(f"{label}, round {round + 1}") as report:
                return kept(bench.drive(targets[label], at(label, round), round=round, report=report), runs)

        first = at("A", 0)
        bench.check_warmup(load.warmup, first.ends_s)
        origin = origin_of(load, endpoints)
        cut = until_cut(lambda: bench.run_comparison(one, ("A", "B"), rounds, options.tell), runs)
    record = record_of("compare", origin, endpoints, tuple(runs), load, first)
    for label, endpoint in zip("AB", endpoints, strict=True):
        options.tell(f"{label} is {endpoint.url}, {endpoint.model}")
    bench_show.save(record, load.json, load.html)
    if cut is not None and not any(run.round == 0 and run.label == "B" for run in runs if not run.invalid):
        finish(record, [], ["no round is whole: there is nothing to compare."], cut)
    compared = bench.compare_runs(runs, record.objectives)
    finish(record, [bench.comparison_table(compared)], compared.notes, cut)


def check_load(load: LoadFlags) -> None:
    """Passes flags that would else be found wrong only after the load.

    Raises:
        ConfigError: an objective is none, or a file can't be written.
    """
    objectives_of(load)
    bench_show.check_writable(load.json, load.html)


def kept(run: LoadRun, runs: list[LoadRun]) -> LoadRun:
    """Adds a run to those that are done; one that was interrupted is not valid, and ends them all.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    if run.interrupted:
        if run.seen:
            runs.append(replace(run, invalid=(*run.invalid, f"it was interrupted after {run.duration_s:.3g} s")))
        raise KeyboardInterrupt
    runs.append(run)
    return run


def until_cut(work: Callable[[], object], runs: list[LoadRun]) -> BaseException | None:
    """What ended the work before its time, where that left runs to be kept; None where it came to its end."""
    try:
        work()
    except (KeyboardInterrupt, PenstockError) as error:
        if not runs:
            raise
        options.tell(f"ended before its time after {len(runs)} runs; the figures are of those")
        return error
    return None


def sides(endpoints: list[Endpoint], load: LoadFlags, stack: ExitStack) -> dict[str, Target]:
    """A target for each endpoint; twice the same one shares its maker, so that no prompt comes to it twice."""
    one, other = endpoints
    first = stack.enter_context(opened("A", one, load))
    if (one.url, one.model) == (other.url, other.model):
        return {"A": first, "B": replace(first, label="B")}
    return {"A": first, "B": stack.enter_context(opened("B", other, load))}


def findings(found: Sweep) -> list[str]:
    """What a sweep found, in lines."""
    from penstock import bench

    lines = []
    if found.knee is not None:
        lines.append(f"knee: {bench.spread(found.knee)} requests/s is the most that it achieves")
    if found.sustained is not None:
        lines.append(f"objectives hold up to {bench.spread(found.sustained)} requests/s")
    return lines


def origin_of(load: LoadFlags, endpoints: list[Endpoint]) -> Origin:
    """Where the figures come from, with this machine's limits where a server runs on it or they are asked for."""
    from penstock import bench

    wanted = load.machine if load.machine is not None else any(map(is_local, endpoints))
    if wanted:
        options.tell("measuring this machine's limits, about half a minute (--no-machine leaves it out)")
    return bench.read_origin(bench.measure_machine() if wanted else None)


def told(workload: Workload) -> None:
    """Says what is to be sent, and what does not fit."""
    options.tell(f"{workload.name}: {len(workload.items)} requests")
    if workload.left_out:
        options.tell(
            f"{workload.left_out} requests are left out: too long for the model, or too short for exact prompts"
        )


def record_of(
    kind: str,
    origin: Origin,
    endpoints: list[Endpoint],
    runs: tuple[LoadRun, ...],
    load: LoadFlags,
    workload: Workload,
) -> Record:
    """The record of some runs."""
    from penstock import bench

    configuration: dict[str, Any] = {
        "endpoints": [bench.endpoint_facts(endpoint) for endpoint in endpoints],
        "workload": {
            "name": workload.name,
            "left_out": workload.left_out,
            "text_seed": load.text_seed,
            **workload.facts,
        },
        "client": {
            "processes": load.processes,
            "max_in_flight": load.max_in_flight,
            "drain_s": load.drain,
            "max_lag_ms": load.max_lag,
        },
    }
    title = " and ".join(f"{endpoint.model} at {endpoint.url}" for endpoint in endpoints)
    return bench.Record(
        kind=kind,
        title=f"{title}: {workload.name}",
        origin=origin,
        configuration=configuration,
        objectives=objectives_of(load),
        price_per_hour=load.price,
        runs=runs,
    )


def finish(
    record: Record, figures: Sequence[Table], notes: Sequence[str] = (), cut: BaseException | None = None
) -> None:
    """Prints, warns, raises what cut it short, exits with 1 where no run is valid, whose figures are not shown."""
    from penstock import bench

    valid = any(not run.invalid for run in record.runs)
    bench_show.show([*(figures if valid else ()), bench.outcomes_table(record.runs)])
    bench_show.warn(record.runs)
    for note in notes if valid else ("invalid: the figures are not shown; a record (--json) has every time.",):
        options.tell(note)
    if cut is not None:
        raise cut
    if not valid:
        raise typer.Exit(1)
