"""Records as one HTML page that needs nothing else: no network, no script, no font.

Knows nothing about how records were made. The door of this room does not import this file, which needs matplotlib
(extra `bench`). Invariant: every text of a record is escaped, what limits the figures stands above them, and figures
are computed from the record's times when the page is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from penstock.bench import plots, tables
from penstock.bench.compare import Comparison, compare_runs
from penstock.bench.definitions import summarize
from penstock.bench.json_form import to_json
from penstock.bench.stats import Estimate
from penstock.bench.store import LoadRun, Record
from penstock.bench.sweep import GOOD_SHARE, Sweep, analyse
from penstock.bench.tables import Table, name_of, number, spread
from penstock.core import ConfigError

MAX_RECORDS = 64
MAX_TIMELINES = 3
MAX_DETAILS = 12
LATE_CLIENT = 5  # the pitfall that makes a run invalid
HEADLINES = ("output tokens", "goodput", "TTFT p50", "TTFT p99", "TPOT p50", "E2E p50")
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d1d1f; background: #faf9f6; margin: 0; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
section.record + section.record { border-top: 2px solid #ddd8cc; margin-top: 3rem; padding-top: 2rem; }
.origin { color: #5c5a55; margin: 0 0 1.2rem; }
.cards { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1rem 0; }
.card { background: #fff; border: 1px solid #e5e1d8; border-radius: .5rem; padding: .6rem .9rem; min-width: 9rem; }
.card b { display: block; font-size: 1.4rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.card span { color: #5c5a55; font-size: .82rem; display: block; }
.alert { border-left: 4px solid #e69f00; background: #fff7e6; padding: .5rem .9rem; margin: .5rem 0; }
.alert.invalid { border-color: #c0392b; background: #fdecea; }
.alert ul { margin: .2rem 0; padding-left: 1.2rem; }
figure { margin: 1rem 0; background: #fff; border: 1px solid #e5e1d8; border-radius: .5rem; padding: .6rem;
  overflow-x: auto; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { color: #5c5a55; font-size: .85rem; margin-top: .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .83rem; background: #fff; width: 100%; }
th, td { padding: .3rem .45rem; border-bottom: 1px solid #eae6dd; text-align: right; vertical-align: top;
  font-variant-numeric: tabular-nums; }
td small { color: #6f6c66; font-size: .78rem; white-space: nowrap; }
th { background: #f1efe8; font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
.note { color: #5c5a55; font-size: .82rem; margin: .3rem 0 1rem; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: #2b5f8a; }
pre { background: #fff; border: 1px solid #e5e1d8; padding: .7rem; overflow-x: auto; font-size: .8rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
"""
_SPREAD = re.compile(r"(\S+) (\(\S+ to \S+\))")
_HINT = re.compile(r" hint: ([^;]*)")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
TERMS = (
    "TTFT: from the intended arrival to the first chunk that shows something. E2E: to the last token. TPOT: "
    "(E2E − TTFT) / (n − 1), n the server's count of output tokens. ITL: gaps between chunks. Figures from the send "
    "leave out what a request waited in the client. The window leaves out warm-up and drain. Brackets hold 95 % "
    "intervals."
)


def report(records: Sequence[Record]) -> str:
    """The page of some records, each a section.

    Raises:
        ConfigError: there is none, there are too many, or one's runs don't fit each other.
    """
    if not 1 <= len(records) <= MAX_RECORDS:
        raise ConfigError(f"{len(records)} records; a report has 1 to {MAX_RECORDS}.", param="records")
    title = records[0].title if len(records) == 1 else f"{len(records)} benchmarks"
    sections = "\n".join(section(record, f"r{index}") for index, record in enumerate(records))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body><main>\n{sections}\n"
        f'<p class="note">{escape(TERMS)}</p>\n</main></body>\n</html>\n'
    )


def write_report(path: str | Path, records: Sequence[Record]) -> None:
    """Writes the page.

    Raises:
        ConfigError: the records make none, or the file can't be written.
    """
    page = report(records)
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{target} can't be written: {error.strerror}.", hint="choose another path.") from error


def section(record: Record, name: str) -> str:
    """One record as HTML; ids within begin with `name`."""
    origin = record.origin
    commit = f", commit {origin.commit}" if origin.commit else ""
    line = (
        f"{record.kind} · {origin.date} · penstock {origin.penstock}{commit} · {origin.cpu}, {origin.threads} threads, "
        f"tier {origin.tier} · {origin.system}"
    )
    parts = [f"<h1>{escape(record.title)}</h1>", f'<p class="origin">{escape(line)}</p>', *alerts(record.runs)]
    if record.kind == "sweep":
        parts.extend(_sweep(record, name))
    elif record.kind == "compare":
        parts.extend(_comparison(record, name))
    elif record.runs:
        parts.extend(_runs(record, name))
    if record.steps:
        parts.append(_figure(plots.steps_plot(record.steps, f"{name}-steps"), "Each step beside its limit."))
        parts.append(html_table(tables.steps_table(record.steps, origin.machine)))
    if origin.machine is not None:
        parts.append(html_table(tables.machine_table(origin.machine)))
    parts.append(_details("Configuration", record.configuration))
    if record.figures:
        parts.append(_details("Figures", record.figures))
    parts.append(_details("Machine", {key: one for key, one in to_json(origin).items() if key != "machine"}))
    return f'<section class="record">\n{chr(10).join(parts)}\n</section>'


def alerts(runs: Sequence[LoadRun]) -> Iterator[str]:
    """What limits the figures: runs that are invalid, then each pitfall once, as the last run that has it says it."""
    invalid = [f"{name_of(run, runs)}: {'; '.join(run.invalid)}" for run in runs if run.invalid]
    if invalid:
        yield _alert("These runs are invalid: their figures mean nothing.", once(invalid), "alert invalid")
    found: dict[int, list[str]] = {}
    for run in runs:
        for pitfall in run.pitfalls:
            if not (run.invalid and pitfall.number == LATE_CLIENT):  # said above
                found.setdefault(pitfall.number, []).append(pitfall.text)
    lines = [
        texts[-1] + (f" ({len(texts)} of {len(runs)} runs; figures of the last)" if len(runs) > 1 else "")
        for _, texts in sorted(found.items())
    ]
    if lines:
        yield _alert("What these figures are not:", lines, "alert")


def once(lines: Sequence[str]) -> list[str]:
    """The lines without their hints, and each different hint once behind them."""
    hints = dict.fromkeys(hint for line in lines for hint in _HINT.findall(line))
    return [_HINT.sub("", line) for line in lines] + [f"hint: {hint}" for hint in hints]


def _alert(title: str, lines: Sequence[str], kind: str) -> str:
    shown = "".join(f"<li>{escape(line)}</li>" for line in lines[:MAX_DETAILS])
    rest = f"<li>and {len(lines) - MAX_DETAILS} more</li>" if len(lines) > MAX_DETAILS else ""
    return f'<div class="{kind}">{escape(title)}<ul>{shown}{rest}</ul></div>'


def _sweep(record: Record, name: str) -> Iterator[str]:
    found = analyse(record.runs, record.objectives)
    yield _cards(_sweep_cards(found, record))
    yield from _notes(found.notes)
    yield _figure(
        plots.sweep_plot(found, f"{name}-sweep"),
        "Left: the dotted line is all that is offered; where achieved leaves it, requests pile up. Right: latencies "
        "from the intended arrival.",
    )
    if record.objectives:
        plot = plots.attainment_plot(found.points, record.objectives, f"{name}-kept")
        yield _figure(plot, f"The dotted line is {GOOD_SHARE:.0%}.")
    yield html_table(tables.sweep_table(found.points))
    yield _figure(plots.cdf_plot(_by_rate(record.runs), f"{name}-cdf"), "Requests that ended well, by rate.")
    yield from _timelines(chosen(record.runs, found), record.runs, name)
    yield html_table(tables.outcomes_table(record.runs))


def _sweep_cards(found: Sweep, record: Record) -> Iterator[tuple[str, str, str]]:
    knee = found.knee
    beyond = f"> {number(max((point.offered for point in found.points), default=0.0))}"
    yield ("saturates at", beyond if knee is None else number(knee.value), _interval(knee, "requests/s"))
    if record.objectives:
        kept = found.sustained
        yield ("keeps its objectives up to", number(kept.value) if kept else tables.NONE, _interval(kept, "requests/s"))
    best = max(found.points, key=lambda point: point.tokens_per_s.value if point.valid else 0.0, default=None)
    if best is not None:
        yield ("most output tokens", number(best.tokens_per_s.value), _interval(best.tokens_per_s, "tokens/s"))


def _interval(found: Estimate | None, unit: str) -> str:
    if found is None or not np.isfinite([found.low, found.high]).all():
        return unit
    return f"{unit}, {number(found.low)} to {number(found.high)}"


def _by_rate(runs: Sequence[LoadRun]) -> list[LoadRun]:
    """The first round of every rate, lowest first."""
    return sorted((run for run in runs if run.round == 0), key=lambda run: run.rate or 0.0)


def chosen(runs: Sequence[LoadRun], found: Sweep) -> list[LoadRun]:
    """Up to MAX_TIMELINES runs that tell a sweep: its lowest rate, the last below the knee, its highest."""
    ordered = _by_rate(runs)
    knee = found.knee.value if found.knee is not None else float("inf")
    below = [run for run in ordered if (run.rate or 0.0) <= knee]
    picked = [ordered[:1], below[-1:], ordered[-1:]]
    return list({id(run): run for few in picked for run in few}.values())[:MAX_TIMELINES]


def _timelines(shown: Sequence[LoadRun], runs: Sequence[LoadRun], name: str) -> Iterator[str]:
    for index, run in enumerate(shown):
        yield _figure(plots.timeline_plot(run, f"{name}-t{index}"), f"{name_of(run, runs)}, over the time of the run.")


def _comparison(record: Record, name: str) -> Iterator[str]:
    try:
        found = compare_runs(record.runs, record.objectives)
    except ConfigError as error:  # such as a comparison that was interrupted in its first round
        yield from _notes([f"nothing is compared: {error}"])
        yield html_table(tables.outcomes_table(record.runs))
        return
    endpoints = record.configuration.get("endpoints")
    if isinstance(endpoints, list) and len(endpoints) == 2:
        for label, facts in zip((found.a, found.b), endpoints, strict=True):
            if isinstance(facts, dict):
                line = f"{label}: {facts.get('model')} at {facts.get('url')}"
                yield f'<p class="origin">{escape(line)}</p>'
    yield _cards(_comparison_cards(found))
    yield from _notes(found.notes)
    if found.rows:
        caption = "Dots are rounds, bars 95 % intervals, marks medians."
        yield _figure(plots.rounds_plot(found, f"{name}-rounds"), caption)
    yield html_table(tables.comparison_table(found))
    first = [run for run in record.runs if run.round == 0]
    yield _figure(plots.cdf_plot(first, f"{name}-cdf"), "Requests of the first round that ended well.")
    yield from _timelines(first, record.runs, name)
    yield html_table(tables.outcomes_table(record.runs))


def _comparison_cards(found: Comparison) -> Iterator[tuple[str, str, str]]:
    for row in found.rows:
        if row.figure.name in HEADLINES:
            ratio = row.ratio.ratio
            verdict = f"{found.b} is {row.verdict}" if row.ratio.real else row.verdict
            label = f"{row.figure.name}, {found.b} / {found.a}"
            yield (label, f"× {number(ratio.value)}", f"{number(ratio.low)} to {number(ratio.high)}: {verdict}")


def _runs(record: Record, name: str) -> Iterator[str]:
    cdf = _figure(plots.cdf_plot(record.runs[:MAX_DETAILS], f"{name}-cdf"), "Requests that ended well.")
    if len(record.runs) > 1:
        yield cdf
    for index, run in enumerate(record.runs[:MAX_DETAILS]):
        if run.window.begin_s >= run.window.end_s:
            continue  # nothing in it counts, as is said above
        if len(record.runs) > 1:
            yield f"<h2>{escape(name_of(run, record.runs))}</h2>"
        yield _cards(_run_cards(run, record))
        yield _figure(plots.timeline_plot(run, f"{name}-t{index}"), "Over the time of the run.")
        if len(record.runs) == 1:
            yield cdf
        yield html_table(tables.rates_table(run, record.objectives, record.price_per_hour))
        yield html_table(tables.latency_table(run))
    if len(record.runs) > MAX_DETAILS:
        yield f'<p class="note">{len(record.runs) - MAX_DETAILS} more runs are in the table below only.</p>'
    yield html_table(tables.outcomes_table(record.runs))


def _run_cards(run: LoadRun, record: Record) -> Iterator[tuple[str, str, str]]:
    summary = summarize(run.seen, run.window, record.objectives)
    yield ("requests", number(summary.requests_per_s), "a second, ended well")
    yield ("output tokens", number(summary.output_tokens_per_s), "a second")
    for metric in ("ttft", "tpot", "e2e"):
        if metric in summary.latencies:
            percents = summary.latencies[metric].percentiles
            p50, p99 = percents[50.0] * tables.MS, percents[99.0] * tables.MS
            yield (tables.NAMES[metric], f"{number(p50)} ms", f"median; p99 {number(p99)} ms")
    if summary.goodput is not None:
        yield ("objectives kept", f"{summary.goodput.attainment:.1%}", "of the requests that arrived")


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield _alert("To know:", notes, "alert")


def _cards(cards: Iterator[tuple[str, str, str]]) -> str:
    made = "".join(
        f'<div class="card"><span>{escape(label)}</span><b>{escape(value)}</b><span>{escape(more)}</span></div>'
        for label, value, more in cards
    )
    return f'<div class="cards">{made}</div>'


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def html_table(table: Table) -> str:
    """The table as HTML under its title."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{_cell(cell)}</{tag}>" for cell in cells) + "</tr>"

    rows = "\n".join(line(row, "td") for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h2>{escape(table.title)}</h2>\n<div class="scroll"><table>\n<thead>{line(table.head, "th")}</thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n{note}"
    )


def _cell(text: str) -> str:
    """A cell; an interval stands below its figure."""
    found = _SPREAD.fullmatch(text)
    return f"{escape(found[1])}<br><small>{escape(found[2])}</small>" if found else escape(text)


def _details(title: str, value: object) -> str:
    shown = json.dumps(value, indent=1, ensure_ascii=False, default=spread)
    return f"<details><summary>{escape(title)}</summary><pre>{escape(shown)}</pre></details>"
