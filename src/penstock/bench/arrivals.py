"""When requests are meant to arrive: Poisson, gamma, constant, bursts, ramp, a closed loop, or the times of a trace.

Knows nothing about prompts, clients or servers. Invariant: a seed gives the same times again, and no times are
stretched to make their number come out: n arrivals at rate r take n/r seconds only on average.

Every renewal process begins in its steady state: the first gap is what is left of one that began before the run, so
that the mean number of arrivals within t seconds is exactly rate * t for any burstiness and any t (D. R. Cox, Renewal
Theory, 1962, section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np

from penstock.bench.bounds import check_between
from penstock.core import ConfigError
from penstock.core.limits import MAX_BENCH_SPAN_S, MAX_BENCH_USERS, MAX_RATE_RPS, MIN_RATE_RPS

MIN_SHAPE, MAX_SHAPE = 0.01, 10_000.0
CHUNK = 256  # gaps drawn at once


class Arrivals(Protocol):
    """A process of arrivals."""

    kind: ClassVar[str]

    def times(self, rng: np.random.Generator) -> Iterator[float | None]:
        """Arrival times in seconds, never falling, endless unless they are a list's; None in a closed loop."""
        ...


@dataclass(frozen=True, slots=True)
class Poisson:
    """Arrivals that know nothing of each other, `rate_rps` a second on average."""

    kind: ClassVar[str] = "poisson"
    rate_rps: float

    def __post_init__(self) -> None:
        check_rate("rate_rps", self.rate_rps)

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Their times."""
        return (unit / self.rate_rps for unit in renewals(GammaGaps(1.0), rng))


@dataclass(frozen=True, slots=True)
class Gamma:
    """Gaps of a gamma distribution: `burstiness` is its shape; 1 is Poisson, below it comes in clusters.

    The coefficient of variation of the gaps is 1 / sqrt(burstiness).
    """

    kind: ClassVar[str] = "gamma"
    rate_rps: float
    burstiness: float

    def __post_init__(self) -> None:
        check_rate("rate_rps", self.rate_rps)
        check_between("burstiness", self.burstiness, MIN_SHAPE, MAX_SHAPE)

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Their times."""
        return (unit / self.rate_rps for unit in renewals(GammaGaps(self.burstiness), rng))


@dataclass(frozen=True, slots=True)
class Constant:
    """One arrival every 1 / `rate_rps` seconds, the first at zero."""

    kind: ClassVar[str] = "constant"
    rate_rps: float

    def __post_init__(self) -> None:
        check_rate("rate_rps", self.rate_rps)

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Their times."""
        index = 0
        while True:
            yield index / self.rate_rps
            index += 1


@dataclass(frozen=True, slots=True)
class Bursts:
    """Poisson at `burst_rps` for the first `burst_s` of every `every_s` seconds, at `base_rps` for the rest."""

    kind: ClassVar[str] = "bursts"
    base_rps: float
    burst_rps: float
    every_s: float
    burst_s: float

    def __post_init__(self) -> None:
        check_between("base_rps", self.base_rps, 0.0, MAX_RATE_RPS)
        check_rate("burst_rps", self.burst_rps)
        check_between("burst_s", self.burst_s, 1e-3, MAX_BENCH_SPAN_S)
        check_between("every_s", self.every_s, self.burst_s, MAX_BENCH_SPAN_S)

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Their times."""
        in_burst = self.burst_rps * self.burst_s
        in_period = in_burst + self.base_rps * (self.every_s - self.burst_s)
        for unit in renewals(GammaGaps(1.0), rng):
            period, left = divmod(unit, in_period)
            if left < in_burst or self.base_rps == 0.0:
                within = left / self.burst_rps
            else:
                within = self.burst_s + (left - in_burst) / self.base_rps
            yield period * self.every_s + within


@dataclass(frozen=True, slots=True)
class Ramp:
    """Poisson at a rate that goes from `begin_rps` to `end_rps` in a straight line over `over_s`, and stays there."""

    kind: ClassVar[str] = "ramp"
    begin_rps: float
    end_rps: float
    over_s: float

    def __post_init__(self) -> None:
        check_between("begin_rps", self.begin_rps, 0.0, MAX_RATE_RPS)
        check_rate("end_rps", self.end_rps)
        check_between("over_s", self.over_s, 1e-3, MAX_BENCH_SPAN_S)

    def times(self, rng: np.random.Generator) -> Iterator[float]:
        """Their times: where the integral of the rate reaches the units of a process of rate one."""
        slope = (self.end_rps - self.begin_rps) / self.over_s
        in_ramp = 0.5 * (self.begin_rps + self.end_rps) * self.over_s
        for unit in renewals(GammaGaps(1.0), rng):
            if unit >= in_ramp:
                yield self.over_s + (unit - in_ramp) / self.end_rps
            else:  # the root of begin * t + slope * t² / 2 = unit, in the form that loses no digits
                root = math.sqrt(max(0.0, self.begin_rps**2 + 2.0 * slope * unit))
                yield 2.0 * unit / (self.begin_rps + root) if unit > 0.0 else 0.0


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`users` of whom each sends when the answer before has come: there are no arrival times."""

    kind: ClassVar[str] = "closed"
    users: int

    def __post_init__(self) -> None:
        check_between("users", self.users, 1, MAX_BENCH_USERS)

    def times(self, rng: np.random.Generator) -> Iterator[None]:
        """None, without end."""
        while True:
            yield None


class Gaps(Protocol):
    """A distribution of gaps with mean one."""

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """That many gaps."""  # [count] f64
        ...

    def first(self, rng: np.random.Generator) -> float:
        """What is left at a random moment of the gap that holds it."""
        ...


@dataclass(frozen=True, slots=True)
class GammaGaps:
    """Gamma with mean one."""

    shape: float

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """That many gaps."""
        return rng.gamma(self.shape, 1.0 / self.shape, count)

    def first(self, rng: np.random.Generator) -> float:
        """A gap is met in proportion to its length, which adds one to the shape; the moment is anywhere in it."""
        return float(rng.random() * rng.gamma(self.shape + 1.0, 1.0 / self.shape))


@dataclass(frozen=True, slots=True)
class WeibullGaps:
    """Weibull with mean one."""

    shape: float

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """That many gaps."""
        return rng.weibull(self.shape, count) / math.gamma(1.0 + 1.0 / self.shape)

    def first(self, rng: np.random.Generator) -> float:
        """As of gamma: weighted by its length, a Weibull's power `shape` is gamma with shape 1 + 1 / shape."""
        met = rng.gamma(1.0 + 1.0 / self.shape) ** (1.0 / self.shape) / math.gamma(1.0 + 1.0 / self.shape)
        return float(rng.random() * met)


def renewals(gaps: Gaps, rng: np.random.Generator) -> Iterator[float]:
    """The times of a process of rate one, in its steady state, without end."""
    now = gaps.first(rng)
    while True:
        yield now
        for gap in gaps.draw(rng, CHUNK).tolist():
            now += gap
            yield now
        now += float(gaps.draw(rng, 1)[0])


def parse_arrivals(text: str) -> Arrivals:
    """What a few characters on a command line say.

    Args:
        text: "poisson:4", "gamma:4,0.5" (rate, burstiness), "constant:4", "bursts:1,20,30,5" (base and burst rate,
            period, length of a burst), "ramp:1,20,60" (first and last rate, over seconds), or "closed:16".

    Raises:
        ConfigError: it says none of these, or a number is out of its bounds.
    """
    name, _, rest = text.partition(":")
    if name not in KINDS:
        raise ConfigError(
            f"{text[:80]!r} is no kind of arrivals ({', '.join(KINDS)}).", param="arrivals", hint="such as poisson:4."
        )
    kind, fields = KINDS[name]
    try:
        numbers = [float(part) for part in rest.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(fields) or (kind is ClosedLoop and numbers[0] % 1):
        raise ConfigError(
            f"{text[:80]!r} is not {name} with its numbers.", param="arrivals", hint=f"{name}:{','.join(fields)}."
        )
    return ClosedLoop(int(numbers[0])) if kind is ClosedLoop else kind(*numbers)


KINDS: dict[str, tuple[type, tuple[str, ...]]] = {
    "poisson": (Poisson, ("rate",)),
    "gamma": (Gamma, ("rate", "burstiness")),
    "constant": (Constant, ("rate",)),
    "bursts": (Bursts, ("base rate", "burst rate", "period", "burst")),
    "ramp": (Ramp, ("first rate", "last rate", "seconds")),
    "closed": (ClosedLoop, ("users",)),
}


def check_rate(name: str, value: float) -> None:
    """Passes a rate that can be driven.

    Raises:
        ConfigError: naming it and its limits.
    """
    check_between(name, value, MIN_RATE_RPS, MAX_RATE_RPS)


def arrival_facts(arrivals: Arrivals) -> dict[str, Any]:
    """What a process is, for a record."""
    process: Any = arrivals
    return {"kind": arrivals.kind} | {item.name: getattr(process, item.name) for item in fields(process)}
