"""How long prompts and answers are, in tokens: fixed, uniform, log-normal, or as observed.

Knows nothing about text or tokenizers. Invariant: a seed gives the same lengths again, and none is below one or above
what was asked for; a distribution with bounds is drawn within them, never cut to them, so that nothing piles up there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, ClassVar, Protocol

import numpy as np

from penstock.bench.bounds import check_between
from penstock.core import ConfigError
from penstock.core.limits import MAX_MODEL_TOKENS, MAX_TRACE_ROWS

MAX_SIGMA = 10.0
NORMAL = NormalDist()


class Lengths(Protocol):
    """A distribution of lengths."""

    kind: ClassVar[str]

    def draw(self, rng: np.random.Generator) -> int:
        """One length, in tokens."""
        ...

    def facts(self) -> dict[str, Any]:
        """What it is, for a record."""
        ...


class LengthPairs(Protocol):
    """A distribution of prompts' and answers' lengths together."""

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """The lengths of one prompt and its answer, in tokens."""
        ...

    def facts(self) -> dict[str, Any]:
        """What it is, for a record."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    kind: ClassVar[str] = "fixed"
    tokens: int

    def __post_init__(self) -> None:
        check_between("tokens", self.tokens, 1, MAX_MODEL_TOKENS)

    def draw(self, rng: np.random.Generator) -> int:
        """That length."""
        return self.tokens

    def facts(self) -> dict[str, Any]:
        """Its length."""
        return {"kind": self.kind, "tokens": self.tokens}


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every length from `low` to `high` alike, both of them too."""

    kind: ClassVar[str] = "uniform"
    low: int
    high: int

    def __post_init__(self) -> None:
        check_range(self.low, self.high)

    def draw(self, rng: np.random.Generator) -> int:
        """One of them."""
        return int(rng.integers(self.low, self.high, endpoint=True))

    def facts(self) -> dict[str, Any]:
        """Its bounds."""
        return {"kind": self.kind, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Lognormal:
    """exp(normal(ln `median`, `sigma`)) within `low` to `high`, rounded; the usual shape of what people write."""

    kind: ClassVar[str] = "lognormal"
    median: float
    sigma: float
    low: int = 1
    high: int = MAX_MODEL_TOKENS

    def __post_init__(self) -> None:
        check_range(self.low, self.high)
        check_between("sigma", self.sigma, 0.0, MAX_SIGMA)
        check_between("median", self.median, self.low, self.high)

    def draw(self, rng: np.random.Generator) -> int:
        """One length, by the inverse of the distribution within its bounds."""
        share = float(rng.random())
        if self.sigma == 0.0:
            return round(self.median)
        low, high = (self._below(bound) for bound in (self.low - 0.5, self.high + 0.5))
        inside = min(max(low + share * (high - low), 1e-15), 1.0 - 1e-15)
        value = round(self.median * math.exp(self.sigma * NORMAL.inv_cdf(inside)))
        return min(max(value, self.low), self.high)  # rounding at the very edges only

    def facts(self) -> dict[str, Any]:
        """Its parameters."""
        return {"kind": self.kind, "median": self.median, "sigma": self.sigma, "low": self.low, "high": self.high}

    def _below(self, bound: float) -> float:
        return NORMAL.cdf((math.log(bound) - math.log(self.median)) / self.sigma)


@dataclass(frozen=True, slots=True)
class Empirical:
    """Lengths in proportion to their weights.

    Args:
        weights: by length; they need not sum to one.
    """

    kind: ClassVar[str] = "empirical"
    weights: Mapping[int, float]
    _lengths: np.ndarray = field(init=False, repr=False, compare=False)  # [N] i64, rising
    _sums: np.ndarray = field(init=False, repr=False, compare=False)  # [N] f64, rising to 1

    def __post_init__(self) -> None:
        lengths = sorted(length for length, weight in self.weights.items() if weight != 0)
        check_between("the number of lengths", len(lengths), 1, MAX_TRACE_ROWS)
        check_range(lengths[0], lengths[-1])
        weights = np.array([self.weights[length] for length in lengths], dtype=np.float64)
        if not (np.isfinite(weights).all() and (weights > 0).all() and np.isfinite(weights.sum())):
            raise ConfigError("a weight of a length is negative or not finite.", param="weights", hint="give shares.")
        object.__setattr__(self, "_lengths", np.array(lengths, dtype=np.int64))
        object.__setattr__(self, "_sums", np.cumsum(weights) / weights.sum())

    def draw(self, rng: np.random.Generator) -> int:
        """One of them."""
        index = int(np.searchsorted(self._sums, rng.random(), side="right"))
        return int(self._lengths[min(index, len(self._lengths) - 1)])

    def facts(self) -> dict[str, Any]:
        """How many lengths there are, their bounds and their mean."""
        weights = np.diff(self._sums, prepend=0.0)
        return {
            "kind": self.kind,
            "num_lengths": len(self._lengths),
            "low": int(self._lengths[0]),
            "high": int(self._lengths[-1]),
            "mean": float((weights * self._lengths).sum()),
        }


@dataclass(frozen=True, slots=True)
class Independent:
    """Prompts and answers that know nothing of each other."""

    prompt: Lengths
    output: Lengths

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """One of each."""
        return self.prompt.draw(rng), self.output.draw(rng)

    def facts(self) -> dict[str, Any]:
        """Both."""
        return {"prompt_tokens": self.prompt.facts(), "output_tokens": self.output.facts()}


@dataclass(frozen=True, slots=True)
class Observed:
    """Pairs that were seen together, each as likely as it was often: long prompts keep their short answers."""

    pairs: Sequence[tuple[int, int]]

    def __post_init__(self) -> None:
        check_between("the number of pairs", len(self.pairs), 1, MAX_TRACE_ROWS)
        for part in (0, 1):
            check_range(min(pair[part] for pair in self.pairs), max(pair[part] for pair in self.pairs))

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """One of them."""
        return self.pairs[int(rng.integers(len(self.pairs)))]

    def facts(self) -> dict[str, Any]:
        """How many, and their means."""
        means = np.array(self.pairs, dtype=np.float64).mean(axis=0)
        return {
            "kind": "observed",
            "num_pairs": len(self.pairs),
            "mean_prompt_tokens": float(means[0]),
            "mean_output_tokens": float(means[1]),
        }


def check_range(low: int, high: int) -> None:
    """Passes bounds of lengths.

    Raises:
        ConfigError: one is out of what models take, or they are in the wrong order.
    """
    check_between("the shortest length", low, 1, MAX_MODEL_TOKENS)
    check_between("the longest length", high, low, MAX_MODEL_TOKENS)


def parse_lengths(text: str) -> Lengths:
    """What a few characters on a command line say.

    Args:
        text: "512", "64-256" (uniform), or "lognormal:200,0.8" (median, sigma), with ",1-4096" for its bounds.

    Raises:
        ConfigError: it says none of these, or a number is out of its bounds.
    """
    try:
        if text.startswith("lognormal:"):
            median, sigma, *bounds = text.removeprefix("lognormal:").split(",")
            if len(bounds) > 1:
                raise ValueError
            low, high = bounds[0].split("-") if bounds else ("1", str(MAX_MODEL_TOKENS))
            return Lognormal(float(median), float(sigma), int(low), int(high))
        if "-" in text:
            low, high = text.split("-")
            return Uniform(int(low), int(high))
        return Fixed(int(text))
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{text[:80]!r} is no length.", param="tokens", hint="512, 64-256 or lognormal:200,0.8,1-4096."
        ) from None
