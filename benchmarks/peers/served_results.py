"""What served loads came to: figures and a table.

Knows nothing about how they ran. Invariant: tokens are counted, not chunks: an answer that ended by its length has as
many as were asked for, where the server says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.peers.served import FORMAT, LACKS, LLAMA_SERVER, PENSTOCK, Served, ServedWork

from penstock.bench import Counted, Estimate, LoadRun, Seen, Table, spread, timing_of
from penstock.bench.definitions import last_token_s
from penstock.bench.stats import compare_rounds, median, quantile

MS = 1e3
Figures = dict[str, Any]


def tokens_of(seen: Seen, work: ServedWork) -> int:
    """Output tokens of an answer: what the server's usage says, else those asked for where that was its end."""
    if seen.counted is not Counted.USAGE and seen.finish_reason == "length":
        return work.output_tokens
    return seen.output_tokens or 0


def rate_of(run: LoadRun, work: ServedWork) -> float:
    """Output tokens a second, from the first send to the last token."""
    tokens = sum(tokens_of(one, work) for one in run.seen)
    begin = min(one.sent_s for one in run.seen if one.sent_s is not None)
    end = max(at for one in run.seen if (at := last_token_s(one)) is not None)
    return tokens / (end - begin)


def figures_of(server: str, work: ServedWork, runs: Sequence[LoadRun]) -> Figures:
    """A server at one load: rates over rounds; latencies over the requests, and gaps over the chunks, of all rounds."""
    timings = [timing_of(one) for run in runs for one in run.seen]
    first = [timing.ttft_s for timing in timings if timing.ttft_s is not None]
    gaps = [gap for timing in timings for gap in timing.gaps_s]
    rates = [rate_of(run, work) for run in runs]
    found: Figures = {
        "server": server,
        "format": FORMAT,
        "work": work.name,
        "title": work.title,
        "rounds": rates,
        "rate": asdict(median(rates)),
        "whole_s": asdict(median([work.users * work.output_tokens / rate for rate in rates])),
        "prompt_tokens": sorted({one.prompt_tokens for run in runs for one in run.seen if one.prompt_tokens}),
        "lacks": LACKS.get(server, ""),
        "late": sum(bool(run.invalid) for run in runs),
    }
    for name, values in (("ttft_s", first), ("gap_s", gaps)):
        for q in (0.5, 0.95):
            if values:
                found[f"{name}_p{round(100 * q)}"] = asdict(quantile(values, q))
    return found


def table(rows: Sequence[Figures]) -> Table:
    """All servers at all loads."""

    def cell(row: Figures, name: str, factor: float = 1.0) -> str:
        return spread(Estimate(**row[name]) if name in row else None, factor)

    cells = [
        (
            row["title"],
            f"{row['server']} {row['format']}",
            cell(row, "rate"),
            str(len(row["rounds"])),
            cell(row, "whole_s"),
            cell(row, "ttft_s_p50"),
            cell(row, "ttft_s_p95"),
            cell(row, "gap_s_p50", MS),
            cell(row, "gap_s_p95", MS),
            cell(row, "ratio"),
            remarks(row),
        )
        for row in rows
    ]
    head = (
        "load",
        "server",
        "output tok/s",
        "rounds",
        "whole, s",
        "TTFT p50, s",
        "p95",
        "ITL p50, ms",
        "p95",
        "ratio",
        "",
    )
    note = f"Ratio: {PENSTOCK}'s output tok/s over {LLAMA_SERVER}'s of the same rounds."
    return Table("Served", head, tuple(cells), note)


def remarks(row: Figures) -> str:
    """What there is to say of a row."""
    late = f"the client was late in {row['late']} of {len(row['rounds'])} rounds" if row["late"] else ""
    return "; ".join(filter(None, (row["lacks"], late)))


def rows_of(units: Sequence[Served]) -> list[Figures]:
    """The figures of what was measured, and how much faster penstock is."""
    rows = [figures_of(unit.server, unit.work, unit.runs) for unit in units if unit.runs]
    by = {(row["work"], row["server"]): row for row in rows}
    for (work, server), row in by.items():
        if server == PENSTOCK and (other := by.get((work, LLAMA_SERVER))) is not None:
            count = min(len(row["rounds"]), len(other["rounds"]))
            row["ratio"] = asdict(compare_rounds(other["rounds"][:count], row["rounds"][:count]).ratio)
    return rows
