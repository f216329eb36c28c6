"""What the manager keeps for one open sequence.

Knows nothing about pools or the index. Invariant: per group, `promised` is what `reserved` tokens may still take beyond
what the tables hold.
"""

from __future__ import annotations

from penstock.core import Sequence
from penstock.kv.prefix import Claim, Entry


class Holding:
    """The books of one open sequence.

    Attributes:
        sequence: whose tables they are.
        keys: hashes of its full pages, extended as they fill up.
        extra: of every page; None where pages differ.
        num_full: pages that are complete and booked.
        claim: the pages that it computes for others too.
        owned: pages that it computed and that others may hit.
        trimmed: first page index that may still be held, by group.
        reserved: tokens that pages are set aside for, 0 is none.
        promised: pages set aside and not taken yet, by group.
    """

    __slots__ = ("claim", "extra", "keys", "num_full", "owned", "promised", "reserved", "sequence", "trimmed")

    def __init__(self, sequence: Sequence, keys: list[bytes], num_full: int, trimmed: list[int]) -> None:
        self.sequence = sequence
        self.keys = keys
        self.extra: bytes | None = None
        self.num_full = num_full
        self.claim: Claim | None = None
        self.owned: list[Entry] = []
        self.trimmed = trimmed
        self.reserved = 0
        self.promised = [0] * len(trimmed)
