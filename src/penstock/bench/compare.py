"""Two endpoints side by side: interleaved rounds, ratios with their intervals, and whether a difference is real.

Knows nothing about HTTP or workloads: a run is a callable. Invariant: both sides of a round run next to each other, the
one that goes first changes from round to round, and a round counts for both sides or for none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.bench import stats
from penstock.bench.definitions import POOLED, Objective, Summary, summarize
from penstock.bench.stats import Estimate, Ratio
from penstock.bench.store import LoadRun
from penstock.core import ConfigError

MIN_ROUNDS = 5
LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", POOLED: "gap", "stall": "longest gap", "e2e": "E2E"}
PERCENTS = (50.0, 99.0)
MS = 1e3


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a run: its name, unit, and whether more is better."""

    name: str
    unit: str
    more_is_better: bool
    of: Callable[[Summary], float | None]


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of both sides over the rounds.

    Attributes:
        figure: which.
        a, b: medians over the rounds.
        ratio: B over A.
        a_rounds, b_rounds: each round's.
    """

    figure: Figure
    a: Estimate
    b: Estimate
    ratio: Ratio
    a_rounds: tuple[float, ...]
    b_rounds: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """What B is beside A where the difference is real: better or worse; else "no difference shown"."""
        if not self.ratio.real:
            return "no difference shown"
        return "better" if (self.ratio.ratio.value > 1) == self.figure.more_is_better else "worse"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison found: labels of both sides, each figure, and what limits them."""

    a: str
    b: str
    rounds: int
    rows: tuple[Compared, ...]
    notes: tuple[str, ...]


def order(labels: tuple[str, str], round: int) -> tuple[str, str]:
    """Who runs first and second in a round: A B, B A, A B, …, so that a steady drift falls on both alike."""
    return labels if round % 2 == 0 else (labels[1], labels[0])


def run_comparison(
    run: Callable[[str, int], LoadRun],
    labels: tuple[str, str],
    rounds: int = 6,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[LoadRun, ...]:
    """Runs both sides by turns until `rounds` rounds are valid, at most twice as many in all; every run is returned.

    Args:
        run: makes one run of a side and a round; both sides of a round get the same workload.
        labels: of A and B.
        rounds: valid ones wanted; fewer than MIN_ROUNDS can't show a difference.
        say: takes a line for people after every run.

    Raises:
        ConfigError: there is no round, or the labels are the same.
    """
    if rounds < 1 or labels[0] == labels[1]:
        raise ConfigError(f"{rounds} rounds of {labels[0]!r} and {labels[1]!r}: at least one round of two.")
    runs: list[LoadRun] = []
    valid = 0
    for round in range(2 * rounds):
        pair = []
        for label in order(labels, round):
            pair.append(run(label, round))
            say(f"round {round + 1}, {label}: {'INVALID' if pair[-1].invalid else 'done'}")
        runs.extend(pair)
        valid += not any(one.invalid for one in pair)
        if valid == rounds:
            break
    return tuple(runs)


def compare_runs(runs: Sequence[LoadRun], objectives: Sequence[Objective] = ()) -> Comparison:
    """Every figure of both sides, from the rounds that are valid for both.

    A figure that some valid round does not have, or where it is not positive, is left out and named in the notes.

    A is the side whose run comes first.

    Raises:
        ConfigError: there are not two labels, a round has not one run of each, or no round is valid.
    """
    labels = list(dict.fromkeys(run.label for run in runs))
    if len(labels) != 2:
        raise ConfigError(f"{len(labels)} endpoints in the record; two are compared.", param="runs")
    sides = {label: {run.round: run for run in runs if run.label == label} for label in labels}
    a, b = labels
    whole = set(sides[a]) == set(sides[b]) or any(run.interrupted for run in runs)
    if not whole or sum(map(len, sides.values())) != len(runs):
        raise ConfigError("a round has not one run of each endpoint.", param="runs", hint="run whole rounds.")
    both = sorted(set(sides[a]) & set(sides[b]))
    valid = [round for round in both if not sides[a][round].invalid and not sides[b][round].invalid]
    if not valid:
        raise ConfigError("no round is valid on both sides.", hint="the runs say why; ask for less, or for longer.")
    summaries = {
        label: [summarize(sides[label][round].seen, sides[label][round].window, objectives) for round in valid]
        for label in (a, b)
    }
    rows, missing = [], []
    for figure in figures(objectives):
        values = [[figure.of(one) for one in summaries[label]] for label in (a, b)]
        known = [[value for value in side if value is not None and value > 0] for side in values]
        if len(known[0]) == len(known[1]) == len(valid):
            rows.append(_compared(figure, known[0], known[1]))
        elif known[0] or known[1]:
            missing.append(figure.name)
    return Comparison(a, b, len(valid), tuple(rows), tuple(_notes(sides, valid, missing, summaries)))


def figures(objectives: Sequence[Objective]) -> tuple[Figure, ...]:
    """The figures that are compared."""
    found = [
        Figure("requests", "1/s", True, lambda one: one.requests_per_s),
        Figure("output tokens", "1/s", True, lambda one: one.output_tokens_per_s),
    ]
    if objectives:
        found.append(Figure("goodput", "1/s", True, lambda one: one.goodput.requests_per_s if one.goodput else None))
    for name, shown in LATENCIES.items():
        for percent in PERCENTS:
            found.append(Figure(f"{shown} p{percent:g}", "ms", False, _percentile(name, percent)))
    return tuple(found)


def _percentile(name: str, percent: float) -> Callable[[Summary], float | None]:
    """A latency's percentile in milliseconds, failures counted as infinitely slow; None where it is so, or unknown."""

    def of(summary: Summary) -> float | None:
        latency = summary.latencies.get(name)
        value = latency.with_missing.get(percent) if latency is not None else None
        return None if value is None else value * MS

    return of


def _compared(figure: Figure, a: list[float], b: list[float]) -> Compared:
    return Compared(figure, stats.median(a), stats.median(b), stats.compare_rounds(a, b), tuple(a), tuple(b))


def _notes(
    sides: dict[str, dict[int, LoadRun]],
    valid: Sequence[int],
    missing: Sequence[str],
    summaries: dict[str, list[Summary]],
) -> list[str]:
    notes = []
    all_rounds = sorted({round for side in sides.values() for round in side})
    if dropped := [str(round + 1) for round in all_rounds if round not in valid]:
        notes.append(f"left out, as they are not valid on both sides: round {', '.join(dropped)}.")
    if len(valid) < MIN_ROUNDS:
        notes.append(f"{len(valid)} rounds can't show a difference; at least {MIN_ROUNDS} can.")
    if missing:
        notes.append(f"left out, as some round has no such figure or it is zero: {', '.join(missing)}.")
    for label, each in summaries.items():
        bad = sum(count for one in each for outcome, count in one.outcomes.items() if outcome.value != "ok")
        if bad:
            notes.append(f"{label}: {bad} requests did not end well; percentiles count them as infinitely slow.")
    return notes
