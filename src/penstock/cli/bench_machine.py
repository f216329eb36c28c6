"""`penstock bench machine|engine|report`: the machine's limits, an engine's steps as shares of them, old records again.

Knows nothing about kernels or plots. Invariant: figures of an engine come with the limits of the same minute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli import bench_show, options
from penstock.core import ConfigError

Isa = Annotated[str | None, typer.Option(metavar="TIER", help="Compute tier at most.")]
Json = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the record here.")]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report here (extra bench).")]
Quick = Annotated[bool, typer.Option("--quick", help="Only whether it runs: the figures mean nothing.")]
Counts = Annotated[str, typer.Option(metavar="LIST", help="Numbers with commas.")]


def machine(threads: options.Threads = None, isa: Isa = None, quick: Quick = False, json: Json = None) -> None:
    """Measure what this machine can do: bandwidth, integer and float arithmetic, of one thread and of all."""
    from penstock import bench

    limits = bench.measure_machine(threads, isa, quick)
    record = bench.Record(kind="machine", title="the machine's limits", origin=bench.read_origin(limits))
    bench_show.save(record, json, None)
    bench_show.show([bench.machine_table(limits)])


def engine(
    model: options.Model = None,
    streams: Counts = "1,8,16,32",
    depths: Counts = "512,2048",
    prompts: Counts = "512,2048",
    mixed_prompt: Annotated[int, typer.Option(min=0, metavar="N", help="Tokens prefilled beside decoding.")] = 256,
    steps: Annotated[int, typer.Option(min=3, metavar="N", help="Decode steps that are timed.")] = 24,
    repeats: Annotated[int, typer.Option(min=3, metavar="N", help="Prefills that are timed.")] = 7,
    kv_type: options.KvType = "auto",
    isa: Isa = None,
    pack_cache: options.PackCache = True,
    quick: Quick = False,
    json: Json = None,
    html: Html = None,
) -> None:
    """Measure a model's steps in this process, each as a share of the machine's limits."""
    from penstock import bench

    options.check_existing(model)
    plan = bench.EnginePlan(
        streams=numbers(streams, "streams"),
        depths=numbers(depths, "depths"),
        prompts=numbers(prompts, "prompts"),
        mixed_prompt=mixed_prompt,
        steps=steps,
        repeats=repeats,
        kv_type=kv_type,
        isa=isa,
        pack_cache=pack_cache,
    )
    limits = bench.measure_machine(isa=isa, quick=quick)
    figures = []
    for figure in bench.bench_engine(model, plan, limits, options.tell):
        figures.append(figure)
        options.tell(f"{figure.what}, {figure.streams} streams, depth {figure.depth}: {figure.share:.0%} of the limit")
    record = bench.Record(kind="engine", title="engine steps", origin=bench.read_origin(limits), steps=tuple(figures))
    bench_show.save(record, json, html)
    bench_show.show([bench.steps_table(figures, limits), bench.machine_table(limits)])


def report(
    records: Annotated[list[Path], typer.Argument(metavar="RECORD...", help="Files that --json wrote.")],
    html: Annotated[Path, typer.Option(metavar="FILE", help="The report.")] = Path("report.html"),
) -> None:
    """Make one HTML page, readable without a network, from records (extra bench)."""
    from penstock import bench

    bench_show.report(html, [bench.read_record(path) for path in records])


def numbers(text: str, flag: str) -> tuple[int, ...]:
    """The numbers of a list such as "1,8,16".

    Raises:
        ConfigError: it is none.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--{flag} is {text[:80]!r}.", param=flag, hint="numbers with commas, such as 1,8.") from None
