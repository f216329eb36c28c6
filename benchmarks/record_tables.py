"""The tables that pages show of the records of the scripts here, made from a record alone.

    python benchmarks/record_tables.py                       # every such table anew, from the records at hand

Knows nothing about how anything was measured. Invariant: a table is that of one record, whose date, commit and machine
stand above it; a figure that an older record lacks is a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pages import expect_table, fill
from records import ROOT

from penstock.bench import Estimate, Record, Table, markdown, read_record, spread
from penstock.bench.machine import DOT, FMA
from penstock.bench.tables import NONE, number

MS = 1e3
PARTS = ("drain", "plan", "arguments", "results", "commit", "rest", "total")
FEW_ROWS, MANY_ROWS = (1, 2, 4, 8), (8, 16, 32, 128, 512)  # bound by the memory; by arithmetic


class Shown(NamedTuple):
    """One table of a page."""

    title: str  # of the record
    name: str  # between the page's marks
    page: str
    make: Callable[[Record], Table]


def median_of(values: Sequence[float]) -> float:
    """The middle one, or the mean of both."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def ranged(values: Sequence[float], form: str = "{:.2f}") -> str:
    """The median with the least and the greatest."""
    return f"{form.format(median_of(values))} ({form.format(min(values))} to {form.format(max(values))})"


def limits_note(record: Record) -> str:
    """The limits that a record's shares are of."""
    machine = record.origin.machine
    if machine is None:
        return ""
    return (
        f"Limits: {machine.bandwidth / 1e9:.1f} GB/s, {machine.peak(DOT) / 1e9:,.0f} Gop/s (int8, of group codes), "
        f"{machine.peak(FMA) / 1e9:,.0f} Gflop/s (f32, of F32 and BF16)."
    )


def kernels(record: Record) -> Table:
    """Products by storage kind: shares of the bandwidth with few rows, of the peak with many."""
    by = {(row["kind"], row["rows"]): row for row in record.figures["products"]}

    def share(kind: str, rows: int, name: str) -> str:
        row = by.get((kind, rows))
        return NONE if row is None else f"{row[name]:.0%}"

    cells = []
    for kind in dict.fromkeys(kind for kind, _ in by):
        first = by.get((kind, 1))
        read = spread(Estimate(**first["gb_s"])) if first else NONE
        few = [share(kind, rows, "share_of_bandwidth") for rows in FEW_ROWS]
        cells.append((kind, read, *few, *(share(kind, rows, "share_of_peak") for rows in MANY_ROWS)))
    head = ("weights", "1 row, GB/s", *(f"of bandwidth: {rows}" for rows in FEW_ROWS))
    head += tuple(f"of peak: {rows}" for rows in MANY_ROWS)
    return Table("Matrix products, by rows", head, tuple(cells), limits_note(record))


def sampling(record: Record) -> Table:
    """Sampling alone and behind its vocabulary pass."""
    by = {row["kind"]: row for row in record.figures["sampling"]}

    def cell(name: str) -> str:
        return spread(Estimate(**by[name]["seconds"]), MS) if name in by else NONE

    def more(kind: str) -> str:
        if f"head, {kind}" not in by or "head" not in by:
            return NONE
        return number(MS * (by[f"head, {kind}"]["seconds"]["value"] - by["head"]["seconds"]["value"]))

    kinds = [kind for kind in by if not kind.startswith("head")]
    cells = [(kind, cell(kind), cell(f"head, {kind}"), more(kind)) for kind in kinds]
    rows = next(iter(by.values()))["rows"]
    note = f"The vocabulary pass alone: {cell('head')} ms; with outlines: {cell('head, outlined')} ms."
    head = ("sampling", "alone, ms", "behind the vocabulary pass, ms", "more than the pass, ms")
    return Table(f"Sampling of {rows} rows over the vocabulary", head, tuple(cells), note)


def loop(record: Record) -> Table:
    """Parts of the control loop by running sequences."""
    cells = []
    for row in record.figures["rows"]:
        beside = "and as many SSE streams" if row["figure"] == "connected" else ""
        parts = [f"{row[part]['median_us']:,.0f}" for part in PARTS]
        cells.append((f"{row['rows']:,} {beside}".strip(), *parts, f"{row['total']['p99_us']:,.0f}"))
    head = ("sequences", *(f"{part}, µs" for part in PARTS), "p99 of the total, µs")
    return Table("The control loop, a step", head, tuple(cells), "Medians of processor time of the loop's thread.")


def startup(record: Record) -> Table:
    """Seconds to ready and to the first token."""
    cells = [
        (name, f"{found['first_start_s']:.2f}", ranged(found["ready_s"]), ranged(found["first_token_s"]))
        for name, found in record.figures.items()
    ]
    head = ("model", "first start, s", "ready, s", "first streamed token, s")
    return Table("From the command to ready", head, tuple(cells), "Medians, least and greatest.")


def storm(record: Record) -> Table:
    """Streams while heavy requests arrive."""
    found = record.figures
    cells = [
        (name, *(ranged([each[q] for each in found[key]], "{:.0f}") for q in ("p50", "p99")))
        for name, key in (("calm", "calm_itl_ms"), ("heavy requests arrive", "storm_itl_ms"))
    ]
    live = found["health_live_ms"]
    note = (
        f"Ratio of the p99s within a round: {ranged(found['p99_ratios'])}. /health/live meanwhile: p50 "
        f"{live['p50']:.1f} ms, slowest {live['max']:.0f} ms."
    )
    return Table("Gaps between tokens of 8 streams", ("", "ITL p50, ms", "ITL p99, ms"), tuple(cells), note)


def client_accuracy(record: Record) -> Table:
    """How far the load generator's figures are from what the scripted server did."""
    names = ("true_ms", "measured_ms", "error_ms", "p99_error_ms")
    rows = record.figures["accuracy"]
    cells = [(row["case"], row["metric"], *(f"{row[name]:.2f}" for name in names)) for row in rows]
    head = ("case", "metric", "true, ms", "measured, ms", "error, median, ms", "error, p99, ms")
    return Table("Figures of the load generator beside the truth", head, tuple(cells))


def honest(row: dict[str, Any]) -> bool:
    """Whether a rate was kept: nobody late, nothing lost."""
    return not row["invalid"] and row["ok"] >= 1


def client_rates(record: Record) -> Table:
    """The largest rate that each number of processes keeps, what a token costs there, and why the next is refused."""
    rows, cells = record.figures["rates"], []
    for processes in dict.fromkeys(row["processes"] for row in rows):
        here = [row for row in rows if row["processes"] == processes]
        kept = max((row for row in here if honest(row)), key=lambda row: row["rate"], default=None)
        above = [row for row in here if not honest(row) and (kept is None or row["rate"] > kept["rate"])]
        cells.append((str(processes), *rate_cells(kept), refusal(above)))
    head = ("processes", "requests/s", "tokens/s", "send lag p99, ms", "loop lag p99, ms", "ms CPU / 1,000 tokens")
    note = "Answers of 16 tokens, each in a write of its own, from a server on the same machine."
    return Table("The largest rate that was kept", (*head, "the next one"), tuple(cells), note)


def rate_cells(row: dict[str, Any] | None) -> tuple[str, ...]:
    """The figures of a rate that was kept."""
    if row is None:
        return (NONE,) * 5
    lags = [f"{row['health'][name]['p99_s'] * MS:.1f}" for name in ("send_lag", "loop_lag")]
    return (f"{row['rate']:,.0f}", f"{row['tokens_per_s']:,.0f}", *lags, f"{row['client_ms_per_1000_tokens']:.0f}")


def refusal(rows: Sequence[dict[str, Any]]) -> str:
    """Why the last rate that was tried was refused."""
    if not rows:
        return "none was refused"
    last = rows[-1]
    why = last["invalid"][0].split(". hint:")[0] if last["invalid"] else f"{last['ok']:.2%} of its requests ended well"
    return f"{last['rate']:,.0f}: {why}"


def loading(record: Record) -> Table:
    """Time and memory of loading each file in each state of the pack cache."""
    cells = []
    for name, load in record.figures.items():
        file, _, cache = name.rpartition(" ")
        packing = [run["pack_s"] for run in load["runs"] if "pack_s" in run]
        weights = f"{median_of(packing):.2f}" if packing else NONE
        rate = f"{load['file_bytes'] / median_of(packing) / 1e9:.2f}" if packing and cache != "warm" else NONE
        whole = (ranged([run["load_s"] for run in load["runs"]]), f"{load['bytes_per_s'] / 1e9:.2f}")
        sizes = [f"{load[size] / 1e6:,.0f}" for size in ("anonymous_bytes", "mapped_bytes", "peak_bytes")]
        cells.append((file, f"{load['file_bytes'] / 1e6:,.0f}", cache, *whole, weights, rate, *sizes))
    head = ("file", "MB", "pack cache", "load, s", "GB/s", "of it weights, s", "repacked, GB/s")
    return Table("Loading", (*head, "own memory, MB", "mapped, MB", "peak, MB"), tuple(cells))


SPEED, METHOD, MODELS = "docs/speed.md", "docs/benchmarking.md", "docs/models.md"
TABLES = (
    Shown("kernels", "kernels", SPEED, kernels),
    Shown("kernels", "sampling", SPEED, sampling),
    Shown("engine_loop", "loop", SPEED, loop),
    Shown("startup", "startup", SPEED, startup),
    Shown("storm", "storm", SPEED, storm),
    Shown("client", "client accuracy", METHOD, client_accuracy),
    Shown("client", "client rates", METHOD, client_rates),
    Shown("load", "loading", MODELS, loading),
)


def shown_of(title: str) -> Iterable[Shown]:
    """The tables of a record."""
    return (shown for shown in TABLES if shown.title == title)


def expect_tables(page: Path | None, title: str) -> None:
    """Passes a page that has every table of such a record, or none: to be asked before minutes of measuring.

    Raises:
        SystemExit: the page is not there, or lacks one.
    """
    for shown in shown_of(title):
        expect_table(page, shown.name)


def show(record: Record, page: Path | None) -> None:
    """Writes every table of a record anew, where a page was given.

    Raises:
        SystemExit: the page is not there, or lacks one.
    """
    expect_tables(page, record.title)
    for shown in shown_of(record.title):
        if page is not None:
            fill(page, shown.name, markdown(shown.make(record)), record.origin)


def main() -> None:
    """Fills the pages from the records at hand."""
    for shown in TABLES:
        path = ROOT / "benchmarks/records" / f"{shown.title}.json"
        if path.exists():
            record = read_record(path)
            fill(ROOT / shown.page, shown.name, markdown(shown.make(record)), record.origin)


if __name__ == "__main__":
    main()
