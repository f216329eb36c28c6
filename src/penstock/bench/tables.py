"""Figures as tables of text: one source for the terminal, Markdown and the HTML report.

Knows nothing about files or markup beyond Markdown's bars. Invariant: a measured figure stands with its interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.bench.compare import Comparison
from penstock.bench.definitions import POOLED, Objective, Summary, arrived_in, cost_per_million, summarize
from penstock.bench.machine import DOT, FMA, UNITS, MachineLimits
from penstock.bench.percentiles import Distribution, distribution
from penstock.bench.records import Outcome
from penstock.bench.spread import Blocks, blocks_of
from penstock.bench.stats import Estimate
from penstock.bench.store import LoadRun, StepFigure
from penstock.bench.sweep import Point

MS = 1e3
NONE = "–"
NAMES = {
    "ttft": "TTFT",
    "ttft_sent": "TTFT from the send",
    "e2e": "E2E",
    "e2e_sent": "E2E from the send",
    "tpot": "TPOT",
    "ntpot": "normalised TPOT (E2E / n)",
    "itl": "ITL, mean of each request",
    POOLED: "ITL, all gaps pooled",
    "stall": "longest gap of each request",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a head.

    Attributes:
        title: what it shows.
        head: names of the columns.
        rows: as many cells each.
        note: a line below.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def markdown(table: Table) -> str:
    """The table in Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    lines = [f"**{table.title}**", "", line(table.head), "|" + "---|" * len(table.head), *map(line, table.rows)]
    return "\n".join([*lines, *(["", table.note] if table.note else [])]) + "\n"


def number(value: float | None) -> str:
    """A figure in three digits, whole from a hundred on."""
    if value is None or value != value:
        return NONE
    if abs(value) == float("inf"):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(estimate: Estimate | None, factor: float = 1.0) -> str:
    """A figure with its interval."""
    if estimate is None:
        return NONE
    return f"{number(estimate.value * factor)} ({number(estimate.low * factor)} to {number(estimate.high * factor)})"


def machine_table(machine: MachineLimits) -> Table:
    """The machine's limits."""
    rows = [(limit.name, spread(limit.rate), UNITS[limit.what]) for limit in machine.limits]
    for gpu in machine.gpus:
        rows.append((f"{gpu.name}, copy within its memory (read and written)", spread(gpu.copy), "GB/s"))
        rows.append((f"{gpu.name}, product of bf16 matrices", spread(gpu.matmul), "Gflop/s"))
    note = f"tier {machine.tier}, read from {machine.buffer_bytes / 2**20:,.0f} MiB; medians, 95 % intervals."
    if machine.quick:
        note += " A quick run: these figures mean nothing."
    if machine.unmeasured:
        note += f" {machine.unmeasured}"
    return Table("The machine's limits", ("limit", "median (interval)", "unit"), tuple(rows), note)


def steps_table(steps: Sequence[StepFigure], machine: MachineLimits | None) -> Table:
    """Engine steps as shares of their limits."""
    rows = [
        (
            step.model,
            step.format,
            step.what,
            str(step.streams or NONE),
            f"{step.depth:,}" if step.depth else NONE,
            f"{step.prompt_tokens:,}" if step.prompt_tokens else NONE,
            spread(step.seconds, MS),
            spread(step.rate),
            f"{step.share:.0%} of {step.bound}",
        )
        for step in steps
    ]
    head = ("model", "format", "step", "streams", "depth", "prompt", "ms a step", "tokens/s", "share of the limit")
    note = ""
    if machine is not None:
        note = (
            f"Limits: {machine.bandwidth / 1e9:.1f} GB/s, {machine.peak(DOT) / 1e9:,.0f} Gop/s (int8), "
            f"{machine.peak(FMA) / 1e9:,.0f} Gflop/s (f32), {machine.threads} threads, tier {machine.tier}."
        )
    return Table("Engine steps", head, tuple(rows), note)


def rates_table(run: LoadRun, objectives: Sequence[Objective], price_per_hour: float | None) -> Table:
    """A run's rates over its window."""
    blocks = blocks_of(run, objectives)
    tokens = blocks.rate("tokens")
    rows = [
        ("requests that arrived", spread(blocks.rate("arrived")), "1/s"),
        ("requests that ended well", spread(blocks.rate("good")), "1/s"),
        ("output tokens", spread(tokens), "1/s"),
    ]
    if objectives:
        rows.append(("goodput", spread(blocks.rate("kept")), "1/s"))
        rows.append(("objectives kept", spread(blocks.attainment(), 100.0), "% of requests"))
        for name, share in _by_metric(summarize(run.seen, run.window, objectives)).items():
            limit = next(one.limit_s for one in objectives if one.metric == name)
            rows.append((f"{NAMES[name]} ≤ {number(limit * MS)} ms", number(share * 100), "% of requests"))
    if price_per_hour is not None:
        rows.append(("a million output tokens", _cost(price_per_hour, tokens), "in the price's currency"))
    window = f"{number(run.window.begin_s)} to {number(run.window.end_s)} s"
    note = f"Window {window}; 95 % intervals from its {blocks.count} blocks."
    return Table("Rates", ("figure", "value (interval)", "unit"), tuple(rows), note)


def _by_metric(summary: Summary) -> dict[str, float]:
    return summary.goodput.by_metric if summary.goodput is not None else {}


def _cost(price_per_hour: float, tokens: Estimate) -> str:
    value, high, low = (cost_per_million(price_per_hour, rate) for rate in (tokens.value, tokens.low, tokens.high))
    return f"{number(value)} ({number(low)} to {number(high) if high is not None else '∞'})"


def latency_table(run: LoadRun) -> Table:
    """A run's latencies in milliseconds."""
    summary, blocks = summarize(run.seen, run.window), blocks_of(run)
    rows = tuple(
        _latency_row(NAMES[name], summary.latencies[name], blocks, name) for name in NAMES if name in summary.latencies
    )
    head = ("ms", "requests", "mean", "p50 (interval)", "p90", "p99 (interval)", "p99.9", "max", "p99 with failures")
    note = (
        "From the intended arrival where not said otherwise; percentiles are linear between neighbours; with failures: "
        "each request that did not end well counts as infinitely slow."
    )
    return Table("Latencies", head, rows, note)


def _latency_row(name: str, found: Distribution, blocks: Blocks, metric: str) -> tuple[str, ...]:
    failed = (
        NONE
        if metric == POOLED
        else number(_ms(found.with_missing[99.0]) if found.missing else _ms(found.percentiles[99.0]))
    )
    return (
        name,
        f"{found.count:,}" + (" gaps" if metric == POOLED else ""),
        number(found.mean * MS),
        spread(blocks.quantile(metric, 0.5), MS),
        number(found.percentiles[90.0] * MS),
        spread(blocks.quantile(metric, 0.99), MS),
        number(found.percentiles[99.9] * MS),
        number(found.max * MS),
        failed,
    )


def _ms(value: float | None) -> float:
    return float("inf") if value is None else value * MS


def outcomes_table(runs: Sequence[LoadRun]) -> Table:
    """How requests ended, and how well the client kept up, run by run."""
    rows = []
    for run in runs:
        arrived = arrived_in(run.seen, run.window)
        outcomes = Counter(one.outcome for one in arrived)
        retry = distribution([one.retry_after_s for one in arrived if one.retry_after_s is not None])
        health = run.health
        rows.append(
            (
                name_of(run, runs),
                f"{len(arrived):,}",
                *(f"{outcomes[outcome]:,}" for outcome in Outcome),
                NONE if retry is None else f"{number(retry.percentiles[50.0])} s",
                f"{number(health.send_lag.p99_s * MS)} / {number(health.loop_lag.p99_s * MS)} ms",
                f"{health.cpu_share:.0%}",
                "no: " + "; ".join(run.invalid) if run.invalid else "yes",
            )
        )
    head = ("run", "arrived", *(outcome.value for outcome in Outcome), "Retry-After p50", "send / loop lag p99")
    return Table("Requests and the client's own health", (*head, "client's CPU", "valid"), tuple(rows))


def name_of(run: LoadRun, runs: Sequence[LoadRun]) -> str:
    """A run's name among others: its label, rate or users, and round where there are several."""
    parts = [run.label]
    if run.rate is not None:
        parts.append(f"{run.rate:g}/s")
    elif run.users is not None:
        parts.append(f"{run.users} users")
    if len({one.round for one in runs}) > 1:
        parts.append(f"round {run.round + 1}")
    return ", ".join(parts)


def sweep_table(points: Sequence[Point]) -> Table:
    """A sweep's points."""

    def latency(name: str, q: float) -> Callable[[Point], str]:
        return lambda point: spread(point.latencies.get((name, q)), MS)

    columns: list[tuple[str, Callable[[Point], str]]] = [
        ("asked 1/s", lambda point: number(point.rate)),
        ("round", lambda point: str(point.round + 1)),
        ("state", lambda p: "INVALID" if not p.valid else "keeps up" if p.keeps_up else "behind"),
        ("offered", lambda point: number(point.offered)),
        ("achieved (interval)", lambda point: spread(point.achieved)),
        ("output tokens/s", lambda point: spread(point.tokens_per_s)),
        ("TTFT p50 ms", latency("ttft", 0.5)),
        ("TTFT p99 ms", latency("ttft", 0.99)),
        ("TPOT p50 ms", latency("tpot", 0.5)),
        ("E2E p99 ms", latency("e2e", 0.99)),
    ]
    if any(point.attainment is not None for point in points):
        columns.append(("objectives kept %", lambda point: spread(point.attainment, 100.0)))
    rows = tuple(tuple(cell(point) for _, cell in columns) for point in points)
    return Table("Rates of the sweep", tuple(name for name, _ in columns), rows)


def comparison_table(found: Comparison) -> Table:
    """A comparison's figures."""
    rows = tuple(
        (
            f"{row.figure.name} ({row.figure.unit}, {'more' if row.figure.more_is_better else 'less'} is better)",
            spread(row.a),
            spread(row.b),
            spread(row.ratio.ratio),
            number(row.ratio.p),
            f"{found.b} {row.verdict}" if row.ratio.real else row.verdict,
            ", ".join(f"{index + 1}" for index in row.ratio.outliers) or NONE,
        )
        for row in found.rows
    )
    head = ("figure", found.a, found.b, f"{found.b} / {found.a}", "p", "verdict", "outlying rounds")
    note = (
        f"Medians of {found.rounds} interleaved rounds; 95 % bootstrap intervals; p of an exact sign-flip test of the "
        "rounds' log ratios, each figure alone; real: p ≤ 1/16 and the ratio's interval excludes 1."
    )
    return Table("Comparison", head, rows, note)
