"""How many KV pages a start takes, in bytes, from what the machine has; and one line that says so.

Knows nothing about where the figures come from. Invariant: the pages returned hold at least one sequence of the
returned max_model_tokens, and what was cut to get there is named.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.core import ConfigError, KvGroup

# A server that is not told otherwise takes memory for this many sequences of full length and at least this many
# tokens (models with a short context), and no more than this share of what is free once the weights are in: the rest
# belongs to the machine's other programs.
DEFAULT_SEQUENCES = 16
DEFAULT_TOKENS = 65_536
FREE_SHARE = 0.5
MIN_MODEL_TOKENS = 256
SHORT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class KvSize:
    """The choice.

    Attributes:
        pages: of each KV group.
        page_tokens: tokens of a page.
        kv_bytes: bytes of all groups together.
        max_model_tokens: as asked, or cut to fit.
        cut: why something was cut, or "".
    """

    pages: tuple[int, ...]
    page_tokens: int
    kv_bytes: int
    max_model_tokens: int
    cut: str

    @property
    def tokens(self) -> int:
        """Tokens that the smallest group holds."""
        return min(self.pages) * self.page_tokens

    def line(self, kv_type: str) -> str:
        """Pages, tokens and how many requests of which length fit, in one line."""
        full = self.tokens // self.max_model_tokens
        text = (
            f"kv: {self.pages[0]:,} pages × {self.page_tokens} tokens = {self.tokens:,} tokens "
            f"({human_bytes(self.kv_bytes)}, {kv_type}); room for {full:,} requests of {self.max_model_tokens:,} tokens"
        )
        if self.max_model_tokens > SHORT_TOKENS:
            text += f" or {self.tokens // SHORT_TOKENS:,} of {SHORT_TOKENS:,}"
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
    free_bytes: int,
    *,
    kv_bytes: int | None = None,
    pinned_context: bool = False,
) -> KvSize:
    """The pages of every group (equal in number), from `kv_bytes` if given, else from `free_bytes`.

    Args:
        groups: with the bytes of one page each.
        page_tokens: tokens of a page.
        max_model_tokens: the longest sequence wanted.
        free_bytes: memory that is free once the weights are in.
        kv_bytes: the user's own figure.
        pinned_context: max_model_tokens was asked for by the user, so it is not cut but refused.

    Raises:
        ConfigError: not even MIN_MODEL_TOKENS fit, or a pinned length does not.
    """
    page_bytes = sum(group.bytes_per_page for group in groups)
    if kv_bytes is not None:
        budget, source = kv_bytes, f"--kv-bytes {human_bytes(kv_bytes)}"
    else:
        budget = int(free_bytes * FREE_SHARE)
        source = f"half of {human_bytes(free_bytes)} free memory"
    wanted = -(-max_model_tokens // page_tokens)
    affordable = max(0, budget) // page_bytes
    pages = (
        affordable
        if kv_bytes is not None
        else min(affordable, max(wanted * DEFAULT_SEQUENCES, DEFAULT_TOKENS // page_tokens))
    )
    if pages >= wanted:
        return KvSize((pages,) * len(groups), page_tokens, pages * page_bytes, max_model_tokens, "")
    fits = pages * page_tokens
    if pinned_context or fits < min(MIN_MODEL_TOKENS, max_model_tokens):
        raise ConfigError(
            f"a sequence of {max_model_tokens:,} tokens needs {human_bytes(wanted * page_bytes)} of KV; "
            f"{source} holds {fits:,} tokens.",
            param="max_model_tokens",
            hint="raise --kv-bytes, lower --max-model-tokens, or free memory.",
        )
    cut = f"max_model_tokens {max_model_tokens:,} → {fits:,}, since {source} holds no more"
    return KvSize((pages,) * len(groups), page_tokens, pages * page_bytes, fits, cut)
