"""How many KV pages a start takes, in bytes, from what the machine has; and one line that says so.

Knows nothing about where the figures come from. Invariant: the pages returned hold at least one sequence of the
returned max_model_tokens, and what was cut to get there is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from penstock.core import ConfigError, KvGroup

# A server that is not told otherwise takes memory for this many sequences of full length and at least this many
# tokens (models with a short context), and no more than this share of what is free once the weights are in: the rest
# belongs to the machine's other programs.
DEFAULT_SEQUENCES = 16
DEFAULT_TOKENS = 65_536
FREE_SHARE = 0.5
MIN_MODEL_TOKENS = 256
SHORT_TOKENS = 512
USUAL_TOKENS = 2048


class KvBudget(NamedTuple):
    """What KV may take.

    Attributes:
        free_bytes: memory that is free once the weights are in; a share of it is taken.
        kv_bytes: the user's own figure, or what a device has left; all of it taken; or None.
        device: where that figure is a device's, its name.
    """

    free_bytes: int
    kv_bytes: int | None = None
    device: str = ""

    @property
    def num_bytes(self) -> int:
        """Bytes of all groups together, at most."""
        return int(max(0, self.free_bytes) * FREE_SHARE) if self.kv_bytes is None else self.kv_bytes

    @property
    def source(self) -> str:
        """Where the figure comes from, for people."""
        if self.kv_bytes is None:
            return f"half of {human_bytes(self.free_bytes)} free memory"
        if self.device:
            return f"{human_bytes(self.kv_bytes)} free on {self.device}"
        return f"--kv-bytes {human_bytes(self.kv_bytes)}"


def pages_needed(num_tokens: int, window: int | None, page_tokens: int, chunk_pages: int) -> int:
    """Pages of one group that a sequence of so many tokens holds at most: a window keeps its last pages and a chunk."""
    pages = -(-num_tokens // page_tokens)
    return pages if window is None else min(pages, -(-window // page_tokens) + 2 + chunk_pages)


def chunk_now(num_tokens: int, page_tokens: int, depth: int = 1) -> int:
    """Pages that the steps under way may add to a sequence with so many tokens left to compute."""
    return -(-max(1, num_tokens) // page_tokens) + depth


@dataclass(frozen=True, slots=True)
class KvSize:
    """The choice.

    Attributes:
        groups: KV groups.
        pages: of each group.
        page_tokens: tokens of a page.
        kv_bytes: bytes of all groups together.
        max_model_tokens: as asked, or cut to fit.
        chunk_pages: pages that a step's tokens may take beside a window.
        cut: why something was cut, or "".
    """

    groups: tuple[KvGroup, ...]
    pages: tuple[int, ...]
    page_tokens: int
    kv_bytes: int
    max_model_tokens: int
    chunk_pages: int
    cut: str

    @property
    def tokens(self) -> int:
        """Tokens that the smallest group holds."""
        return min(self.pages) * self.page_tokens

    def room(self, num_tokens: int) -> int:
        """Sequences of so many tokens that fit at once, one of them still at its prompt."""

        def fit(pages: int, window: int | None) -> int:
            first, other = _first_and_other(num_tokens, window, self.page_tokens, self.chunk_pages)
            return 1 + (pages - first) // other if pages >= first else 0

        return min(fit(pages, group.window) for pages, group in zip(self.pages, self.groups, strict=True))

    def line(self, kv_type: str) -> str:
        """Pages, tokens and how many requests of which length fit, in one line."""
        if len(self.groups) == 1 and self.groups[0].window is None:
            held = f"{self.pages[0]:,} pages × {self.page_tokens} tokens = {self.tokens:,} tokens"
        else:
            named = (f"{group.name} {pages:,}" for group, pages in zip(self.groups, self.pages, strict=True))
            held = f"{' + '.join(named)} pages × {self.page_tokens} tokens"
        full = self.room(self.max_model_tokens)
        text = (
            f"kv: {held} ({human_bytes(self.kv_bytes)}, {kv_type}); "
            f"room for {full:,} requests of {self.max_model_tokens:,} tokens"
        )
        if self.max_model_tokens > SHORT_TOKENS:
            text += f" or {self.room(SHORT_TOKENS):,} of {SHORT_TOKENS:,}"
        return f"{text}; cut: {self.cut}" if self.cut else text


def human_bytes(count: int) -> str:
    """The count in GB, MB or kB (decimal), three significant digits."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count} B"


def size_kv(
    groups: tuple[KvGroup, ...],
    page_tokens: int,
    max_model_tokens: int,
    budget: KvBudget,
    *,
    pinned_context: bool = False,
    chunk_tokens: int = 0,
) -> KvSize:
    """The pages of every group within the budget.

    Each group gets what DEFAULT_SEQUENCES of full length and DEFAULT_TOKENS in short sequences hold of it; where that
    does not fit, in the proportion in which sequences of USUAL_TOKENS hold them, so that none runs out while another
    lies idle; and never less than one sequence needs.

    Args:
        groups: with the bytes of one page each.
        page_tokens: tokens of a page.
        max_model_tokens: the longest sequence wanted.
        budget: bytes of all groups together.
        pinned_context: max_model_tokens was asked for by the user, so it is not cut but refused.
        chunk_tokens: tokens that the steps under way may add to one sequence, which a window must hold beside itself.

    Raises:
        ConfigError: not even MIN_MODEL_TOKENS fit, or a pinned length does not.
    """
    chunk_pages = -(-chunk_tokens // page_tokens)

    def need(num_tokens: int) -> tuple[int, ...]:
        return tuple(pages_needed(num_tokens, group.window, page_tokens, chunk_pages) for group in groups)

    def choice(pages: tuple[int, ...], context: int, cut: str) -> KvSize:
        return KvSize(groups, pages, page_tokens, _bytes(groups, pages), context, chunk_pages, cut)

    alone = need(max_model_tokens)
    if _bytes(groups, alone) <= budget.num_bytes:
        return choice(_shares(choice(alone, max_model_tokens, ""), alone, budget), max_model_tokens, "")
    most = -(-max_model_tokens // page_tokens)
    context = _greatest(most, lambda count: _bytes(groups, need(count * page_tokens)) <= budget.num_bytes)
    fits = context * page_tokens
    if pinned_context or fits < min(MIN_MODEL_TOKENS, max_model_tokens):
        raise ConfigError(
            f"a sequence of {max_model_tokens:,} tokens needs {human_bytes(_bytes(groups, alone))} of KV; "
            f"{budget.source} holds {fits:,} tokens.",
            param="max_model_tokens",
            hint="raise --kv-bytes, lower --max-model-tokens, or free memory.",
        )
    cut = f"max_model_tokens {max_model_tokens:,} → {fits:,}, since {budget.source} holds no more"
    return choice(need(fits), fits, cut)


def _bytes(groups: tuple[KvGroup, ...], pages: tuple[int, ...]) -> int:
    return sum(count * group.bytes_per_page for count, group in zip(pages, groups, strict=True))


def _greatest(limit: int, fits: Callable[[int], bool]) -> int:
    """The greatest number from 0 to the limit that fits; 0 always does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _first_and_other(num_tokens: int, window: int | None, page_tokens: int, chunk_pages: int) -> tuple[int, int]:
    """Pages of one group that a sequence of so many tokens holds at most, and that one holds whose prompt is done."""
    decoding = min(chunk_pages, chunk_now(1, page_tokens))
    return (
        pages_needed(num_tokens, window, page_tokens, chunk_pages),
        pages_needed(num_tokens, window, page_tokens, decoding),
    )


def _shares(size: KvSize, alone: tuple[int, ...], budget: KvBudget) -> tuple[int, ...]:
    """Pages of each group: as many sequences of a usual length as fit beside a longest one, up to each group's demand.

    A figure that the user gave is all used, so demand does not end it.
    """
    groups, usual = size.groups, min(USUAL_TOKENS, size.max_model_tokens)
    held = [_first_and_other(usual, group.window, size.page_tokens, size.chunk_pages) for group in groups]
    most = max(other for _, other in held)
    demand = [max(count * DEFAULT_SEQUENCES, DEFAULT_TOKENS // size.page_tokens) for count in alone]
    limit = max(-(-count * most // other) for count, (_, other) in zip(demand, held, strict=True))
    if budget.kv_bytes is not None:
        limit = max(limit, budget.kv_bytes // min(group.bytes_per_page for group in groups))
        demand = [max(count, limit * 2) for count in demand]

    def pages(scale: int) -> tuple[int, ...]:
        wanted = [first - other + scale * other // most for first, other in held]
        return tuple(max(one, min(full, want)) for one, full, want in zip(alone, demand, wanted, strict=True))

    return pages(_greatest(limit, lambda scale: _bytes(groups, pages(scale)) <= budget.num_bytes))
