"""One run's figures with their spread, from blocks of time: requests near each other share a queue.

Knows nothing about several runs. Invariant: a value is the one that `definitions` gives for the whole window; only its
interval comes from drawing the window's blocks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.bench import stats
from penstock.bench.definitions import METRICS, POOLED, Objective, arrived_in, meets, timing_of, within
from penstock.bench.records import Outcome, Seen, Window
from penstock.bench.stats import Estimate
from penstock.bench.store import LoadRun

MAX_BLOCKS = 20
MIN_BLOCKS = 4
REQUESTS_A_BLOCK = 5
QUANTILE_RESAMPLES = 200
MIN_WINDOW_S = 1e-6  # of a run with one request, or with none after its warm-up

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Blocks:
    """A run's window cut into stretches of equal length.

    Attributes:
        seconds: of one.
        arrived: requests that arrived in each.  # [B] f64
        good: good ends within each, whenever they arrived.  # [B] f64
        tokens: output tokens that came within each.  # [B] f64
        kept: requests that arrived in each and kept every objective.  # [B] f64
        values: metric → the values of the requests that arrived in each.
    """

    seconds: float
    arrived: Numbers
    good: Numbers
    tokens: Numbers
    kept: Numbers
    values: dict[str, list[Numbers]]

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self.arrived)

    def rate(self, name: str) -> Estimate:
        """A count a second: of "arrived", "good", "tokens" or "kept"."""
        counts: Numbers = getattr(self, name)
        return stats.bootstrap(self.count, lambda index: float(counts[index].mean()) / self.seconds)

    def attainment(self) -> Estimate | None:
        """Share of the requests that arrived and kept every objective; None where none arrived."""
        if not self.arrived.sum():
            return None
        return stats.bootstrap(
            self.count,
            lambda index: float(self.kept[index].sum() / total) if (total := self.arrived[index].sum()) else np.nan,
        )

    def quantile(self, metric: str, q: float) -> Estimate | None:
        """A metric's q-quantile over requests (over gaps where it is pooled), None where no request has it."""
        values = self.values.get(metric)
        if not values or not sum(map(len, values)):
            return None

        def of(index: npt.NDArray[np.int64]) -> float:
            drawn = np.concatenate([values[i] for i in index])
            return float(np.quantile(drawn, q)) if len(drawn) else np.nan

        return stats.bootstrap(self.count, of, resamples=QUANTILE_RESAMPLES)


def blocks_of(run: LoadRun, objectives: Sequence[Objective] = ()) -> Blocks:
    """The blocks of a run's window: MIN_BLOCKS to MAX_BLOCKS, with REQUESTS_A_BLOCK arrivals each where there are."""
    arrived = arrived_in(run.seen, run.window)
    count = min(MAX_BLOCKS, max(MIN_BLOCKS, len(arrived) // REQUESTS_A_BLOCK))
    kept = np.zeros(count)
    arrivals = np.zeros(count)
    values: dict[str, list[list[float]]] = {name: [[] for _ in range(count)] for name in (*METRICS, POOLED)}
    for seen in arrived:
        block = _block_of(seen.intended_s, run.window, count)
        arrivals[block] += 1
        if seen.outcome is Outcome.OK:
            kept[block] += _note(seen, block, values, objectives)
    return Blocks(
        seconds=length_of(run.window) / count,
        arrived=arrivals,
        good=_count([seen.end_s for seen in run.seen if seen.outcome is Outcome.OK], run.window, count),
        tokens=_tokens(run.seen, run.window, count),
        kept=kept,
        values={name: [np.asarray(one) for one in each] for name, each in values.items() if any(each)},
    )


def _note(seen: Seen, block: int, values: dict[str, list[list[float]]], objectives: Sequence[Objective]) -> bool:
    """Adds a good request's values to its block; returns whether it kept every objective."""
    timing = timing_of(seen)
    for name, metric in METRICS.items():
        if (value := metric(timing)) is not None:
            values[name][block].append(value)
    values[POOLED][block].extend(timing.gaps_s)
    return all(meets(seen, timing, objective) for objective in objectives)


def _count(times: Sequence[float | None], window: Window, count: int) -> Numbers:
    found = np.zeros(count)
    for time in times:
        if time is not None and within(time, window):
            found[_block_of(time, window, count)] += 1
    return found


def _tokens(seen: Sequence[Seen], window: Window, count: int) -> Numbers:
    """Output tokens that came within each block, an answer's spread evenly over its chunks.  # [B] f64."""
    times: list[float] = []
    shares: list[float] = []
    for one in seen:
        came = one.chunks_s or ([one.end_s] if one.end_s is not None else [])
        if one.output_tokens and came:
            times.extend(came)
            shares.extend([one.output_tokens / len(came)] * len(came))
    at = (np.asarray(times) - window.begin_s) / length_of(window) * count
    inside = (at >= 0) & (np.asarray(times) < window.end_s)
    blocks = np.minimum(at[inside].astype(np.int64), count - 1)
    return np.bincount(blocks, np.asarray(shares)[inside], count).astype(np.float64)


def _block_of(at_s: float, window: Window, count: int) -> int:
    return min(count - 1, int((at_s - window.begin_s) / length_of(window) * count))


def length_of(window: Window) -> float:
    """Seconds of a window, never nought."""
    return max(window.end_s - window.begin_s, MIN_WINDOW_S)
