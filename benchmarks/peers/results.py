"""What the rounds came to: figures for the record, tables for people.

Knows nothing about how anything was measured. Invariant: a rate is a median over rounds with its interval and the
number of rounds; what failed stands in the tables with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.peers.limits import Limits
from benchmarks.peers.rounds import Unit
from benchmarks.peers.works import CLASSES, Contender

from penstock.bench import Estimate, Table, spread
from penstock.bench.stats import compare_rounds, median, outliers

OURS = "penstock"
NONE = "–"
Figures = dict[str, Any]


def figures_of(unit: Unit, limits: Limits) -> Figures:
    """A unit as the record holds it."""
    found: Figures = {
        "peer": unit.contender.peer,
        "format": unit.contender.format,
        "bits": unit.contender.bits,
        "work": unit.work.name,
        "title": unit.work.title,
        "what": unit.work.what,
        "streams": unit.work.streams,
        "tokens": unit.work.tokens,
        "steps": unit.work.steps,
        "rounds": {
            variant: {"tokens": unit.tokens[variant], "seconds": unit.seconds[variant]} for variant in unit.seconds
        },
        "spent_s": unit.spent_s,
        "error": unit.error,
    }
    limit = limits.rate(unit.contender.limit, unit.work)
    if limit is not None:
        found |= {"limit_rate": limit[0], "bound": limit[1]}
    if unit.seconds:
        rates = unit.rates(unit.best)
        found |= {
            "variant": unit.best,
            "rate": asdict(median(rates)),
            "outliers": [rates[at] for at in outliers(rates)],
        }
    return found


def estimate(row: Figures) -> Estimate | None:
    """A row's rate."""
    return Estimate(**row["rate"]) if "rate" in row else None


def share(row: Figures) -> str:
    """A row's part of its limit, for people."""
    if "rate" not in row or "limit_rate" not in row:
        return NONE
    return f"{row['rate']['value'] / row['limit_rate']:.0%} of {row['bound']}"


def name_of(row: Figures) -> str:
    """A row's contender."""
    return f"{row['peer']} {row['format']}" + (f" ({row['variant']})" if row.get("variant") else "")


def rates(row: Figures) -> list[float]:
    """Tokens a second of each round of a row's variant."""
    found = row["rounds"][row["variant"]]
    return [tokens / seconds for tokens, seconds in zip(found["tokens"], found["seconds"], strict=True)]


def best(rows: Iterable[Figures]) -> Figures | None:
    """The row with the highest rate."""
    return max((row for row in rows if "rate" in row), key=lambda row: float(row["rate"]["value"]), default=None)


def work_table(rows: Sequence[Figures]) -> Table:
    """All contenders at one work, the fastest of each class first."""
    ordered = sorted(rows, key=lambda row: (CLASSES.index(row["bits"]), -row.get("rate", {"value": 0.0})["value"]))
    cells = []
    for row in ordered:
        found = estimate(row)
        strays = ", ".join(f"{value:.3g}" for value in row.get("outliers", ()))
        said = row["error"] or (f"outliers {strays}" if strays else "")
        count = str(found.count) if found is not None else "0"
        cells.append((row["bits"], name_of(row), spread(found), count, share(row), said))
    head = ("weights", "contender", "tokens/s, median (95 % interval)", "rounds", "share of its limit", "")
    return Table(rows[0]["title"], head, tuple(cells))


def summary_table(rows: Sequence[Figures]) -> Table:
    """penstock's fastest format beside the fastest peer, by work and class; ratios are of the rounds that both have."""
    cells = []
    for work, bits in dict.fromkeys((row["work"], row["bits"]) for row in rows):
        here = [row for row in rows if (row["work"], row["bits"]) == (work, bits)]
        ours = best(row for row in here if row["peer"] == OURS)
        theirs = best(row for row in here if row["peer"] != OURS)
        if ours is None or theirs is None:
            continue
        mine, other = rates(ours), rates(theirs)
        both = min(len(mine), len(other))
        times = compare_rounds(other[:both], mine[:both]).ratio
        cells.append(
            (here[0]["title"], bits, f"{ours['format']}: {spread(estimate(ours))}", share(ours),
             f"{name_of(theirs)}: {spread(estimate(theirs))}", f"{spread(times)} in {times.count}")
        )  # fmt: skip
    head = ("work", "weights", "penstock, tokens/s", "share of the limit", "fastest peer, tokens/s", "ratio, rounds")
    return Table("penstock beside the fastest peer of each class", head, tuple(cells))


def failures_table(rows: Sequence[Figures], failed: dict[str, str]) -> Table:
    """What was not measured, and why."""
    why = {name: reason for name, reason in failed.items()}
    why |= {f"{row['peer']} {row['format']}, {row['work']}": row["error"] for row in rows if row["error"]}
    return Table("Not measured", ("what", "why"), tuple(why.items()))


def agreement(tokens: Sequence[int], others: Sequence[int]) -> int:
    """How many of the first tokens are the same."""
    same = 0
    for one, other in zip(tokens, others, strict=False):
        if one != other:
            break
        same += 1
    return same


def notes_table(contenders: Sequence[Contender], loaded: dict[str, Figures]) -> Table:
    """What was loaded, and how far its greedy answer to one short prompt agrees with penstock's from bf16 weights."""
    ours = loaded.get(f"{OURS} bf16")
    cells = []
    for contender in contenders:
        if (said := loaded.get(contender.name)) is not None:
            tokens = said["first_tokens"]
            same = NONE if ours is None else f"{agreement(tokens, ours['first_tokens'])} of {len(tokens)}"
            cells.append((contender.name, said["note"], f"{said['seconds']:.1f}", same))
    note = "Float formats run the same weights and should agree; quantized ones have weights of their own."
    head = ("contender", "version and choices", "seconds to load", f"first tokens as {OURS} bf16")
    return Table("Contenders", head, tuple(cells), note)
