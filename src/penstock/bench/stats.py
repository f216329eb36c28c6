"""Medians, quantiles and ratios with their spread: every figure of a benchmark is an `Estimate`, never a bare number.

Knows nothing about requests or servers. Invariant: the same values and seed give the same interval, and no value is
ever left out; what looks like an outlier is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from penstock.core import ConfigError

Values = npt.NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 2000
SEED = 20_240_229
REAL_P = 1 / 16  # what five rounds that all agree reach; six reach half of it
MAX_EXACT_ROUNDS = 14  # sign flips are all tried up to here (16,384), drawn beyond
DRAWN_FLIPS = 20_000
FENCE = 1.5  # quartile distances beyond the quartiles (Tukey)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with the interval that holds the true one at LEVEL, and how many values it was made of."""

    value: float
    low: float
    high: float
    count: int

    def per(self, amount: float) -> Estimate:
        """`amount` divided by this figure: a rate from a time."""
        return Estimate(amount / self.value, amount / self.high, amount / self.low, self.count)

    def times(self, factor: float) -> Estimate:
        """This figure in another unit; the factor is positive."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.count)


def quantile(values: Sequence[float] | Values, q: float, level: float = LEVEL, seed: int = SEED) -> Estimate:
    """The q-quantile of independent values, linear between neighbours, with its bootstrap interval.

    A resample's order statistic is a value of the sorted sample at a beta-distributed rank, so that a resample costs
    two draws however many values there are (Efron, "Bootstrap methods: another look at the jackknife", 1979).

    Args:
        values: at least one finite number.
        q: 0 to 1.
        level: of the interval.
        seed: of the resamples.

    Raises:
        ConfigError: there is no value, or one is not finite.
    """
    ordered = np.sort(_checked(values))
    count = len(ordered)
    value = float(np.quantile(ordered, q))
    if count == 1:
        return Estimate(value, value, value, 1)
    rng = np.random.default_rng(seed)
    at = q * (count - 1)
    below, part = int(at), at - int(at)
    # Ranks of the two order statistics between which the quantile lies: of `count` uniform draws, the lower one and,
    # above it, the least of the rest.
    first = rng.beta(below + 1, count - below, RESAMPLES)
    rest = count - below - 1
    second = first + (1 - first) * rng.beta(1, rest, RESAMPLES) if rest else first
    drawn = [ordered[np.minimum((rank * count).astype(np.int64), count - 1)] for rank in (first, second)]
    return _interval(value, drawn[0] + part * (drawn[1] - drawn[0]), count, level)


def median(values: Sequence[float] | Values, level: float = LEVEL, seed: int = SEED) -> Estimate:
    """The median with its bootstrap interval.

    Raises:
        ConfigError: there is no value, or one is not finite.
    """
    return quantile(values, 0.5, level, seed)


def bootstrap(
    blocks: Sequence[int] | int,
    statistic: Callable[[npt.NDArray[np.int64]], float],
    level: float = LEVEL,
    seed: int = SEED,
    resamples: int = 400,
) -> Estimate:
    """A statistic of units that are drawn again together, such as blocks of time whose requests depend on each other.

    Args:
        blocks: how many units there are, or, by stratum, how many each has: units are drawn within their stratum.
        statistic: of the units with these indices (strata follow each other); nan where it can't be said.
        level: of the interval.
        seed: of the resamples.
        resamples: how many.

    Returns:
        The statistic of all units with its percentile interval; infinite ends where resamples could not say.
    """
    sizes = [blocks] if isinstance(blocks, int) else list(blocks)
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *sizes[:-1]])
    value = statistic(np.arange(sum(sizes)))
    drawn = np.asarray(
        [
            statistic(np.concatenate([at + rng.integers(0, n, n) for at, n in zip(starts, sizes, strict=True)]))
            for _ in range(resamples)
        ]
    )
    known = drawn[~np.isnan(drawn)]
    tail = (1 - level) / 2 * len(drawn)
    if not len(known) or len(drawn) - len(known) > 2 * tail:
        return Estimate(value, -np.inf, np.inf, sum(sizes))
    return _interval(value, known, sum(sizes), level)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How two things compare over interleaved rounds.

    Attributes:
        rounds: B over A of each round.
        ratio: their median with its interval.
        p: probability of rounds that agree this well if A and B were the same.
        real: whether the difference is real: p is at most REAL_P and the interval lies on one side of 1.
    """

    rounds: tuple[float, ...]
    ratio: Estimate
    p: float
    real: bool

    @property
    def outliers(self) -> tuple[int, ...]:
        """Rounds whose ratio lies far from the others'."""
        return outliers(self.rounds)


def compare_rounds(a: Sequence[float], b: Sequence[float], level: float = LEVEL, seed: int = SEED) -> Ratio:
    """B over A from figures of the same rounds: the median ratio, its interval, and whether it differs from 1.

    The test flips the sign of each round's log ratio (Fisher's exact test of paired figures): it needs no
    distribution, only that A and B would be exchangeable within a round if they were the same.

    Args:
        a: one positive figure a round.
        b: the other side's, of the same rounds.
        level: of the interval.
        seed: of the resamples.

    Raises:
        ConfigError: lengths differ, there is no round, or a figure is not positive.
    """
    if len(a) != len(b):
        raise ConfigError(f"A has {len(a)} rounds and B {len(b)}.", hint="a round measures both.")
    first, second = _checked(a), _checked(b)
    if (first <= 0).any() or (second <= 0).any():
        raise ConfigError("a figure that is compared as a ratio is not positive.", hint="compare figures above zero.")
    logs = np.log(second / first)
    middle = median(logs, level, seed)
    ratio = Estimate(float(np.exp(middle.value)), float(np.exp(middle.low)), float(np.exp(middle.high)), len(logs))
    p = sign_flip_p(logs, seed)
    return Ratio(tuple((second / first).tolist()), ratio, p, p <= REAL_P and not ratio.low <= 1 <= ratio.high)


def sign_flip_p(differences: Sequence[float] | Values, seed: int = SEED) -> float:
    """Two-sided p of paired differences: the share of sign flips whose sum is at least as far from zero.

    All flips are tried up to MAX_EXACT_ROUNDS differences; beyond, DRAWN_FLIPS of them are drawn.
    """
    values = _checked(differences)
    count = len(values)
    if count <= MAX_EXACT_ROUNDS:
        flips = np.asarray(list(product((-1.0, 1.0), repeat=count)))
        extra = 0
    else:
        flips = np.random.default_rng(seed).choice((-1.0, 1.0), (DRAWN_FLIPS, count))
        extra = 1  # the flip that was seen counts among the drawn ones
    seen = abs(values.sum())
    as_far = int((np.abs(flips @ values) >= seen * (1 - 1e-12)).sum())
    return (as_far + extra) / (len(flips) + extra)


def outliers(values: Sequence[float] | Values) -> tuple[int, ...]:
    """Indices of values more than FENCE quartile distances beyond the quartiles; they are shown, never dropped."""
    if len(values) < 4:
        return ()
    array = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(array, (0.25, 0.75))
    reach = FENCE * (high - low)
    return tuple(int(i) for i in np.flatnonzero((array < low - reach) | (array > high + reach)))


def _checked(values: Sequence[float] | Values) -> Values:
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise ConfigError("there is no value to take a figure of.", hint="measure at least one round.")
    if not np.isfinite(array).all():
        raise ConfigError("a measured value is not a finite number.", hint="leave out what was not measured.")
    return array


def _interval(value: float, drawn: Values, count: int, level: float) -> Estimate:
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2), method="nearest")
    return Estimate(value, min(float(low), value), max(float(high), value), count)
