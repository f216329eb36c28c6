"""Where an endpoint saturates: runs at growing rates, the knee of what it achieves, and the rate that keeps objectives.

Knows nothing about HTTP or workloads: a run is a callable. Invariant: the analysis is a function of the runs alone, so
that a record gives the same knee again; a run whose client was too slow is shown and never counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.bench import stats
from penstock.bench.definitions import Objective
from penstock.bench.spread import Blocks, Numbers, blocks_of
from penstock.bench.stats import Estimate
from penstock.bench.store import LoadRun
from penstock.core import ConfigError

KEEPS_UP = 0.95  # of what is offered: below, an endpoint falls behind
GOOD_SHARE = 0.99
MAX_RATES = 64
FEW_REQUESTS = 100  # below, a 99th percentile is the slowest request
Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """Which rates are run.

    Attributes:
        start: first rate, requests a second.
        growth: each next rate is so many times the one before, until the endpoint has fallen behind.
        max_rate: none beyond it.
        past: rates that are run beyond the first at which it fell behind, to see the plateau.
        refine: rates between the last at which it kept up and the first at which it did not.
        rounds: runs of every rate; all rates once, then all again.
        again: how often a run whose client was too slow is repeated before the sweep ends there.
    """

    start: float = 1.0
    growth: float = 2.0
    max_rate: float = 1e4
    past: int = 1
    refine: int = 3
    rounds: int = 1
    again: int = 1


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a sweep.

    Attributes:
        rate: requests a second that were meant to arrive; None where nobody said.
        round: which of several.
        requests: that arrived in the window.
        offered: the same, a second.
        achieved: good ends a second in the window.
        tokens_per_s: output tokens that came in the window.
        attainment: share that kept every objective; None without objectives or arrivals.
        latencies: (metric, q) → quantile, where requests had it.
        valid: whether the client kept up.
    """

    rate: float | None
    round: int
    requests: int
    offered: float
    achieved: Estimate
    tokens_per_s: Estimate
    attainment: Estimate | None
    latencies: dict[tuple[str, float], Estimate]
    valid: bool

    @property
    def keeps_up(self) -> bool:
        """Whether as much was achieved as offered, as far as the interval can tell."""
        return self.achieved.high >= KEEPS_UP * self.offered


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep found.

    Attributes:
        points: by rate, then round.
        knee: requests a second that it achieves at most; None where no run saturated it, or none did for sure.
        sustained: requests a second at which GOOD_SHARE of the requests still keep every objective; None without
            objectives, or where the rates do not enclose it.
        notes: what limits these figures, each a line.
    """

    points: tuple[Point, ...]
    knee: Estimate | None
    sustained: Estimate | None
    notes: tuple[str, ...]


SHOWN = (("ttft", 0.5), ("ttft", 0.99), ("tpot", 0.5), ("tpot", 0.99), ("e2e", 0.5), ("e2e", 0.99))


def run_sweep(
    run: Callable[[float, int], LoadRun], plan: SweepPlan, say: Callable[[str], None] = lambda line: None
) -> tuple[LoadRun, ...]:
    """Runs growing rates until the endpoint falls behind, then rates in between, then all again.

    Args:
        run: makes one run of a rate and a round.
        plan: which rates.
        say: takes a line for people after every run.

    Raises:
        ConfigError: the plan has no rates.
    """
    check_plan(plan)
    runs: list[LoadRun] = []

    def one(rate: float, round: int) -> Point:
        return _until_valid(lambda: run(rate, round), plan.again, runs, say)

    kept, behind, past = 0.0, 0.0, 0
    rate = plan.start
    while rate <= plan.max_rate and past <= plan.past and len(runs) < MAX_RATES:
        point = one(rate, 0)
        if not point.valid:
            say("the client can't drive more: the sweep ends here.")
            break
        if point.keeps_up and not behind:
            kept = rate
        else:
            behind = behind or rate
            past += 1
        rate *= plan.growth
    if kept and behind:
        for between in np.geomspace(kept, behind, plan.refine + 2)[1:-1]:
            one(round_rate(float(between)), 0)
    rates = sorted({done.rate for done in runs if done.rate is not None and not done.invalid})
    for again in range(1, plan.rounds):
        for each in rates:
            one(each, again)
    return tuple(runs)


def _until_valid(run: Callable[[], LoadRun], again: int, runs: list[LoadRun], say: Callable[[str], None]) -> Point:
    """A run that is valid, or the last of `again` repetitions; all are kept."""
    while True:
        done = run()
        runs.append(done)
        point = point_of(done, shown=(("ttft", 0.99),))
        say(line_of(point))
        if point.valid or again <= 0:
            return point
        again -= 1


def check_plan(plan: SweepPlan) -> None:
    """Passes a plan that has at least one rate and ends.

    Raises:
        ConfigError: it doesn't.
    """
    if not (0 < plan.start <= plan.max_rate < float("inf")) or not 1.05 <= plan.growth <= 100:
        raise ConfigError(
            f"rates from {plan.start:g} to {plan.max_rate:g}, growing by {plan.growth:g}: no such sweep.",
            param="start",
            hint="start above zero and below max_rate; growth 1.05 to 100.",
        )
    if plan.rounds < 1 or min(plan.refine, plan.past, plan.again) < 0:
        raise ConfigError(
            f"rounds is {plan.rounds}, refine {plan.refine}, past {plan.past}, again {plan.again}.",
            param="rounds",
            hint="at least 1 round, and 0 of the others.",
        )


def round_rate(rate: float) -> float:
    """A rate in three digits, for people."""
    return float(f"{rate:.3g}")


def analyse(runs: Sequence[LoadRun], objectives: Sequence[Objective] = ()) -> Sweep:
    """The knee, the rate that keeps the objectives, and each run's point.

    Raises:
        ConfigError: a run's window is empty.
    """
    ordered = sorted(runs, key=lambda run: (run.rate or 0.0, run.round))
    cut = [blocks_of(run, objectives) for run in ordered]
    points = tuple(point_of(run, objectives, blocks) for run, blocks in zip(ordered, cut, strict=True))
    valid = [blocks for blocks, run in zip(cut, ordered, strict=True) if not run.invalid]
    knee = estimate(valid, knee_of) if valid else None
    sustained = estimate(valid, sustained_rate) if valid and objectives else None
    return Sweep(points, knee, sustained, tuple(notes_of(points, knee, sustained, objectives)))


def point_of(
    run: LoadRun,
    objectives: Sequence[Objective] = (),
    blocks: Blocks | None = None,
    shown: Sequence[tuple[str, float]] = SHOWN,
) -> Point:
    """One run's figures, with the (metric, q) that are shown."""
    blocks = blocks if blocks is not None else blocks_of(run, objectives)
    return Point(
        rate=run.rate,
        round=run.round,
        requests=int(blocks.arrived.sum()),
        offered=float(blocks.arrived.mean()) / blocks.seconds,
        achieved=blocks.rate("good"),
        tokens_per_s=blocks.rate("tokens"),
        attainment=blocks.attainment() if objectives else None,
        latencies={(name, q): found for name, q in shown if (found := blocks.quantile(name, q)) is not None},
        valid=not run.invalid,
    )


def line_of(point: Point) -> str:
    """A run in one line for people."""
    ttft = point.latencies.get(("ttft", 0.99))
    return (
        f"{point.rate:g}/s: offered {point.offered:.3g}/s, achieved {point.achieved.value:.3g}/s"
        + (f", TTFT p99 {ttft.value * 1e3:.0f} ms" if ttft else "")
        + ("" if point.keeps_up else ", behind")
        + ("" if point.valid else ", INVALID")
    )


@dataclass(frozen=True, slots=True)
class Curve:
    """Rates of several runs: offered and achieved, and the share that kept the objectives.  # each [N] f64."""

    offered: Numbers
    achieved: Numbers
    kept: Numbers
    arrived: Numbers


def estimate(cut: Sequence[Blocks], statistic: Callable[[Curve], float]) -> Estimate | None:
    """A curve's figure with its interval, each run's blocks drawn again; None where the curve has none for sure."""
    owner = np.repeat(np.arange(len(cut)), [blocks.count for blocks in cut])
    seconds = np.asarray([blocks.seconds * blocks.count for blocks in cut])
    arrived, good, kept = (np.concatenate([getattr(b, n) for b in cut]) for n in ("arrived", "good", "kept"))

    def of(index: Index) -> float:
        came, went, well = (sum_by(owner[index], counts[index], len(cut)) for counts in (arrived, good, kept))
        return statistic(Curve(came / seconds, went / seconds, well, came))

    found = stats.bootstrap([blocks.count for blocks in cut], of)
    return found if np.isfinite([found.value, found.low, found.high]).all() else None


def sum_by(owner: Index, counts: Numbers, size: int) -> Numbers:
    """Sums of counts by owner.  # [size] f64."""
    return np.bincount(owner, counts, size).astype(np.float64)


def knee_of(curve: Curve) -> float:
    """The c of achieved = min(offered, c) that fits best, nan where no run is clearly beyond it.

    Squares are weighed by 1 / offered, as counts spread by the root of their size. For the runs beyond c the best c is
    their weighed mean, so that one candidate a split is enough.
    """
    order = np.argsort(curve.offered)
    x, y = curve.offered[order], curve.achieved[order]
    x, y = x[x > 0], y[x > 0]
    best, found = float("inf"), float("nan")
    for split in range(len(x)):
        weights = 1 / x[split:]
        c = float((weights * y[split:]).sum() / weights.sum())
        error = float(((y - np.minimum(x, c)) ** 2 / x).sum())
        if c <= KEEPS_UP * x[-1] and error < best:
            best, found = error, c
    unsaturated = float(((y - x) ** 2 / x).sum())
    return found if best < unsaturated else float("nan")


def sustained_rate(curve: Curve) -> float:
    """The offered rate at which the share that keeps the objectives falls through GOOD_SHARE, nan where none does.

    Shares that rise with the rate are pooled first (isotonic regression by pooling adjacent violators), weighed by
    requests; between two rates the share is linear. Failures are rare here and come in clusters: an interval of 95 %
    held the truth in 85 to 90 of 100 simulated sweeps of six one-minute runs.
    """
    used = curve.arrived > 0
    order = np.argsort(curve.offered[used])
    x, weights = curve.offered[used][order], curve.arrived[used][order]
    share = falling(curve.kept[used][order] / weights, weights)
    below = np.flatnonzero(share < GOOD_SHARE)
    if not len(below) or below[0] == 0:
        return float("nan")
    last, first = below[0] - 1, below[0]
    part = (share[last] - GOOD_SHARE) / (share[last] - share[first])
    return float(x[last] + part * (x[first] - x[last]))


def falling(values: Numbers, weights: Numbers) -> Numbers:
    """The nearest sequence that never rises, in weighed squares."""
    pools: list[list[float]] = []  # value, weight, how many
    for value, weight in zip(values, weights, strict=True):
        pools.append([float(value), float(weight), 1])
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            value_b, weight_b, count_b = pools.pop()
            value_a, weight_a, count_a = pools.pop()
            weight = weight_a + weight_b
            pools.append([(value_a * weight_a + value_b * weight_b) / weight, weight, count_a + count_b])
    return np.concatenate([np.full(int(count), value) for value, _, count in pools])


def rates_of(points: Sequence[Point]) -> str:
    """The points' rates, each once."""
    return ", ".join(dict.fromkeys(f"{point.rate:g}/s" for point in points if point.rate is not None))


def notes_of(
    points: Sequence[Point], knee: Estimate | None, sustained: Estimate | None, objectives: Sequence[Objective]
) -> list[str]:
    """What limits the figures."""
    notes = []
    if late := rates_of([point for point in points if not point.valid]):
        notes.append(f"runs at {late} don't count: the client was too slow.")
    if few := rates_of([point for point in points if point.requests < FEW_REQUESTS]):
        notes.append(f"fewer than {FEW_REQUESTS} requests at {few}: a p99 there is the slowest one.")
    if knee is None and any(point.valid and not point.keeps_up for point in points):
        notes.append("the runs are too few or too short to tell where the endpoint saturates.")
    elif knee is None:
        notes.append("no run saturated the endpoint: its knee lies beyond the highest rate.")
    if objectives and sustained is None:
        shares = [point.attainment.value for point in points if point.valid and point.attainment is not None]
        if shares and min(shares) >= GOOD_SHARE:
            notes.append(f"every rate kept the objectives for {GOOD_SHARE:.0%} of its requests.")
        else:
            notes.append(f"no rate, or not the lowest one, kept the objectives for {GOOD_SHARE:.0%} of its requests.")
    return notes
