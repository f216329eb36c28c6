"""Distributions: percentiles by one stated rule, with what is missing from them beside.

Knows nothing about requests. Invariant: a percentile of n sorted values x[0..n-1] is the value at position (n - 1) q,
linear between its neighbours (type 7 of Hyndman and Fan, 1996; numpy's "linear"); nothing is dropped or smoothed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Distribution:
    """What some values look like.

    Attributes:
        count: values.
        missing: requests that should have had one and did not: they failed, or never ended.
        mean, std, min, max: of the values; std is that of the population.
        percentiles: by percent, of the values.
        with_missing: the same with each missing one as infinitely large; None where that is what is met.
    """

    count: int
    missing: int
    mean: float
    std: float
    min: float
    max: float
    percentiles: dict[float, float]
    with_missing: dict[float, float | None]


def distribution(
    values: Sequence[float], missing: int = 0, percents: Sequence[float] = PERCENTILES
) -> Distribution | None:
    """The distribution of some values, None where there are none."""
    if not values:
        return None
    ordered = np.sort(np.asarray(values, np.float64))  # [N] f64
    return Distribution(
        count=len(ordered),
        missing=missing,
        mean=float(ordered.mean()),
        std=float(ordered.std()),
        min=float(ordered[0]),
        max=float(ordered[-1]),
        percentiles={percent: float(np.percentile(ordered, percent)) for percent in percents},
        with_missing={percent: percentile_with_missing(ordered, missing, percent) for percent in percents},
    )


def percentile_with_missing(ordered: np.ndarray, missing: int, percent: float) -> float | None:
    """A percentile of sorted values followed by `missing` infinite ones; None where it is infinite.

    Args:
        ordered: the values, ascending.  # [N] f64
        missing: how many are infinite.
        percent: 0 to 100.
    """
    position = round((len(ordered) + missing - 1) * percent / 100, 9)  # no neighbour for the sake of a rounding error
    below, above = math.floor(position), math.ceil(position)
    if above >= len(ordered):
        return None
    return float(ordered[below] + (ordered[above] - ordered[below]) * (position - below))
