"""Interleaved rounds: who is asked what in which order, what came of it, and when a slow one is asked no more.

Knows nothing about processes: it is given a function that asks. Invariant: within a round each work is done by all
contenders one after the other, and who begins changes from round to round; what failed is kept with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.peers.child import PeerFailed
from benchmarks.peers.works import Contender, Work

TRIALS = 1  # rounds in which every variant is measured

Ask = Callable[[Contender, dict[str, Any]], dict[str, Any]]


@dataclass
class Unit:
    """One contender at one work.

    Attributes:
        contender, work: which.
        seconds: by variant, one figure a round, for `tokens`.
        tokens: likewise.
        spent_s: what its rounds took in all.
        last_s: what the last one took.
        error: why it was given up.
        within: the unit of the same prompt alone, which is measured along with this one.
    """

    contender: Contender
    work: Work
    seconds: dict[str, list[float]] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    spent_s: float = 0.0
    last_s: float = 0.0
    error: str | None = None
    within: Unit | None = None

    @property
    def best(self) -> str:
        """Of the variants that were measured most often the fastest; the first where none was measured."""
        most = max(map(len, self.seconds.values()), default=0)
        found = {variant: median(self.rates(variant)) for variant in self.seconds if len(self.seconds[variant]) == most}
        return max(found, key=lambda variant: found[variant]) if found else self.contender.variants[0]

    def rates(self, variant: str) -> list[float]:
        """Tokens a second of each round."""
        return [t / s for t, s in zip(self.tokens[variant], self.seconds[variant], strict=True)]

    def variants(self, round: int) -> tuple[str, ...]:
        """Those to be measured in a round: all in the first ones, then the fastest (of the prompt alone, too)."""
        fastest = (self.best, self.within.best) if self.within is not None else (self.best,)
        return self.contender.variants if round < TRIALS else tuple(dict.fromkeys(fastest))

    def add(self, variant: str, tokens: int, seconds: float) -> None:
        """Keeps one figure."""
        self.tokens.setdefault(variant, []).append(tokens)
        self.seconds.setdefault(variant, []).append(seconds)

    def goes_on(self, budget_s: float) -> bool:
        """Whether it gets another round: it never failed, and one more like the last fits its share of time."""
        return self.error is None and self.spent_s + self.last_s <= budget_s


def rotated(items: Sequence[Contender], round: int) -> list[Contender]:
    """The items in order, another one first each round."""
    at = round % len(items) if items else 0
    return [*items[at:], *items[:at]]


def units_of(contenders: Sequence[Contender], works: Sequence[Work]) -> list[Unit]:
    """Every contender at every work that it does, those that come with another one tied to it."""
    units = [Unit(contender, work) for work in works for contender in contenders if contender.does(work)]
    by = {(unit.contender.name, unit.work.name): unit for unit in units}
    for unit in units:
        if (whole := by.get((unit.contender.name, unit.work.within))) is not None:
            whole.within = unit
    return units


def turns(units: Sequence[Unit], round: int) -> Iterator[Unit]:
    """The units in the order of a round; those that come with another one are not asked."""
    tied = {id(unit.within) for unit in units if unit.within is not None}
    units = [unit for unit in units if id(unit) not in tied]
    works = list(dict.fromkeys(unit.work for unit in units))
    contenders = list({unit.contender.name: unit.contender for unit in units}.values())
    by = {(unit.contender.name, unit.work.name): unit for unit in units}
    for work in works:
        for contender in rotated(contenders, round):
            if (unit := by.get((contender.name, work.name))) is not None:
                yield unit


@dataclass(frozen=True)
class Pace:
    """How often, and how long.

    Attributes:
        rounds: of each unit at most.
        budget_s: of one unit over all rounds; one that takes longer gets fewer rounds, at least one.
        clock: seconds.
    """

    rounds: int
    budget_s: float
    clock: Callable[[], float]


def measure(units: Sequence[Unit], pace: Pace, ask: Ask, say: Callable[[str], None]) -> None:
    """Fills the units.

    Args:
        units: of `units_of`.
        pace: how often.
        ask: a contender; where it raises `PeerFailed` the unit is given up, the others go on.
        say: takes lines for people.
    """
    for round in range(pace.rounds):
        for unit in turns(units, round):
            if unit.goes_on(pace.budget_s):
                measure_once(unit, round, ask, pace.clock)
                say(line_of(unit, round))


def measure_once(unit: Unit, round: int, ask: Ask, clock: Callable[[], float]) -> None:
    """One round of one unit, all its variants."""
    start = clock()
    try:
        for variant in unit.variants(round):
            order = unit.work.order | {"seed": round + 1, "variant": variant}
            said = ask(unit.contender, order)
            unit.add(variant, int(said["tokens"]), float(said["seconds"]))
            if unit.within is not None:
                unit.within.add(variant, int(said["prefill"]["tokens"]), float(said["prefill"]["seconds"]))
    except PeerFailed as error:
        unit.error = str(error)
        if unit.within is not None:
            unit.within.error = unit.error
    unit.last_s = clock() - start
    unit.spent_s += unit.last_s


def line_of(unit: Unit, round: int) -> str:
    """What a round brought, for people."""
    head = f"round {round + 1}  {unit.work.name:13} {unit.contender.name:26}"
    if unit.error is not None:
        return f"{head} {unit.error}"
    best = unit.best
    return f"{head} {unit.rates(best)[-1]:8.1f} tok/s  {best:9} {unit.spent_s:6.1f} s in all"
