"""What the words of made-up prompts cost in tokens, found out by asking a tokenizer.

Knows nothing about prompts. Invariant: a cost is what the piece adds to a text that it is put after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from penstock.bench.counters import PROBE, TokenCounter
from penstock.bench.words import WORDS
from penstock.core import ConfigError

MIN_SINGLE = 64  # words of one token above which the others aren't needed
MIN_IDS = 16
FILLERS = (" a", " I", " s", " t", ",", ".", ";", " -", "a", "e", " 1", "1", "x", "!")


@dataclass(frozen=True, slots=True)
class Pieces:
    """Bits of text and their costs in tokens.

    Attributes:
        cost: of each.
        drawn: those that prompts are made of.
    """

    cost: Mapping[str, int]
    drawn: tuple[str, ...]

    def filler(self, most: int, turn: int) -> str:
        """A piece that costs at most so many tokens, another one each turn."""
        few = self.few
        fits = [piece for piece in few if self.cost[piece] <= most] or few[:1]
        return fits[turn % len(fits)]

    @property
    def few(self) -> tuple[str, ...]:
        """Pieces by rising cost, those that fill gaps."""
        return tuple(islice(self.cost, len(FILLERS)))

    def text(self, pieces: Sequence[str], first: bool) -> str:
        """Them joined; a space that would begin a text is left out."""
        joined = "".join(pieces)
        return joined.removeprefix(" ") if first else joined


def learn_pieces(counter: TokenCounter) -> Pieces:
    """The words that cost one token, or all with what they cost where too few do; the cheapest come first.

    Raises:
        ConfigError: the tokenizer makes nothing of them.
    """
    base = len(counter.ids(PROBE))

    def cost(pieces: Sequence[str]) -> int:
        return len(counter.ids(PROBE + "".join(pieces))) - base

    costs: dict[str, int] = {}
    waiting = [[f" {word}" for word in WORDS]]
    while waiting:
        group = waiting.pop()
        total = cost(group)
        if total == len(group):
            costs.update(dict.fromkeys(group, 1))
        elif len(group) == 1:
            costs[group[0]] = total
        else:
            half = len(group) // 2
            waiting += [group[half:], group[:half]]
    single = tuple(piece for piece, value in costs.items() if value == 1)
    drawn = single if len(single) >= MIN_SINGLE else tuple(piece for piece, value in costs.items() if value > 0)
    if len(drawn) < MIN_SINGLE:
        raise ConfigError(
            f"the tokenizer knows {len(drawn)} of {len(WORDS)} words.",
            param="tokenizer",
            hint="is it a language model's?",
        )
    fillers = {piece: value for piece in FILLERS if (value := cost([piece])) > 0}
    used = {piece: costs[piece] for piece in drawn}
    return Pieces(dict(sorted((fillers | used).items(), key=lambda item: item[1])), drawn)


def learn_ids(counter: TokenCounter) -> tuple[int, ...]:
    """Ids of ordinary text, rising.

    Raises:
        ConfigError: there are too few.
    """
    found = tuple(sorted(set(counter.ids(" ".join(WORDS)))))
    if len(found) < MIN_IDS:
        raise ConfigError(
            f"the tokenizer writes {len(WORDS)} words with {len(found)} tokens.",
            param="tokenizer",
            hint="is it a language model's?",
        )
    return found
