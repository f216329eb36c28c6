"""Which pages hold which tokens: page hashes, and the index from a hash to a page or to who computes it.

Knows nothing about free memory or tables. Invariant: what is found has the tokens asked for; equal hashes alone are
never enough. A key stands for a ready page or for a claim, never for both.

A prompt has thousands of pages and is looked up in the step loop, so runs of pages are compared as one string of bytes;
page by page only where that differs, which takes a collision of hashes.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from penstock.core import Request

PageHash = Callable[[bytes], bytes]

ID_BYTES = 8


def sha256(data: bytes) -> bytes:
    """The SHA-256 digest."""
    return hashlib.sha256(data).digest()


def pack(tokens: Sequence[int]) -> bytes:
    """The ids as 64-bit integers."""
    return array("q", tokens).tobytes()


class PromptPages(NamedTuple):
    """What a door makes of a prompt so that the step loop need not read it again; plain data.

    Attributes:
        keys: chained hashes of its full pages.
        packed: their ids, packed.
    """

    keys: tuple[bytes, ...]
    packed: bytes


class Entry:
    """One computed page of tokens after one prefix, and its page in every KV group.

    Attributes:
        key: hash of (parent, tokens, extra).
        parent: key of the page before, b"" for the first.
        packed: the page's ids, packed.
        extra: what else the keys and values depend on.
        pages: page of each group, -1 where there is none.
        alive: whether it is in the index.
    """

    __slots__ = ("alive", "extra", "key", "packed", "pages", "parent")

    def __init__(self, key: bytes, parent: bytes, packed: bytes, extra: bytes, pages: list[int]) -> None:
        self.key = key
        self.parent = parent
        self.packed = packed
        self.extra = extra
        self.pages = pages
        self.alive = True


class Claim:
    """The pages that one sequence is computing; all it keeps is shared with the sequence.

    Attributes:
        writer: id of the sequence.
        tokens: its ids.
        keys: hashes of its pages.
    """

    __slots__ = ("keys", "tokens", "writer")

    def __init__(self, writer: int, tokens: list[int], keys: list[bytes]) -> None:
        self.writer = writer
        self.tokens = tokens
        self.keys = keys


class PendingPage:
    """A page that somebody computes, as one who waits for it sees it.

    Attributes:
        key: of the page.
    """

    __slots__ = ("_claim", "_claims", "key")

    def __init__(self, key: bytes, claim: Claim, claims: dict[bytes, Claim]) -> None:
        self.key = key
        self._claim = claim
        self._claims = claims

    @property
    def writer(self) -> int:
        """Id of the sequence that computes it."""
        return self._claim.writer

    @property
    def pending(self) -> bool:
        """Whether that sequence is still at it."""
        return self._claims.get(self.key) is self._claim


class PageHasher:
    """Hashes of full pages of a request; safe to use from any thread.

    Args:
        page_tokens: tokens of a page.
        model_identity: digest of the model.
        hash_page: bytes to digest; SHA-256 unless a test forces collisions.
    """

    def __init__(self, page_tokens: int, model_identity: str, hash_page: PageHash = sha256) -> None:
        self._page_tokens = page_tokens
        self._identity = model_identity.encode()
        self._hash = hash_page

    def extra(self, request: Request, index: int) -> bytes:
        """What page `index` depends on beside its tokens: model, adapter, salt, media; every field length-prefixed."""
        fields = [self._identity, (request.adapter or "").encode(), request.cache_salt.encode()]
        first = index * self._page_tokens
        for start, length, digest in request.media:
            if start < first + self._page_tokens and start + length > first:
                fields.append(f"{start - first} {length} {digest}".encode())
        return b"".join(len(field).to_bytes(4, "little") + field for field in fields)

    def key(self, parent: bytes, packed: bytes, extra: bytes) -> bytes:
        """The hash of one page."""
        return self._hash(parent + packed + extra)

    def pages(self, request: Request) -> PromptPages:
        """Hashes of every full page of the prompt, each one chained to the one before, and their packed ids."""
        size, tokens = self._page_tokens, request.prompt_tokens
        keys: list[bytes] = []
        pieces: list[bytes] = []  # page by page: one long conversion would hold up every other thread
        parent = b""
        for index, extra in enumerate(self.extras(request, len(tokens) // size)):
            packed = pack(tokens[index * size : (index + 1) * size])
            parent = self.key(parent, packed, extra)
            pieces.append(packed)
            keys.append(parent)
        return PromptPages(tuple(keys), b"".join(pieces))

    def extras(self, request: Request, num_pages: int) -> list[bytes]:
        """`extra` of the first pages; they differ only where there are media."""
        if request.media:
            return [self.extra(request, index) for index in range(num_pages)]
        return [self.extra(request, 0)] * num_pages


class PrefixIndex:
    """Ready pages and claims by key.

    Args:
        page_tokens: tokens of a page.
    """

    def __init__(self, page_tokens: int) -> None:
        self._page_tokens = page_tokens
        self._entries: dict[bytes, Entry] = {}
        self._claims: dict[bytes, Claim] = {}

    def leading(self, keys: Iterable[bytes]) -> int:
        """How many keys from the first on are ready or claimed; hashes only."""
        count = 0
        for key in keys:
            if key not in self._entries and key not in self._claims:
                break
            count += 1
        return count

    def find(
        self, keys: list[bytes], tokens: list[int], extras: list[bytes], packed: bytes = b""
    ) -> tuple[list[Entry], PendingPage | None]:
        """The ready pages of these tokens from the first on, and the last page of those that somebody computes next.

        Args:
            keys: page hashes of the tokens; those without an `extras` are left out.
            tokens: the ids.
            extras: what else each page depends on.
            packed: the first of the ids, packed, as far as somebody has done that already.
        """
        entries: list[Entry] = []
        get = self._entries.get
        for key in islice(keys, len(extras)):
            entry = get(key)
            if entry is None:
                break
            entries.append(entry)
        known, wanted = len(packed) // ID_BYTES, len(entries) * self._page_tokens
        packed = packed[: wanted * ID_BYTES] if known >= wanted else packed + pack(tokens[known:wanted])
        count = _agreeing(entries, keys, packed, extras)
        if count < len(entries):
            return entries[:count], None
        return entries, self._pending(count, keys, tokens, len(extras))

    def _pending(self, first: int, keys: list[bytes], tokens: list[int], most: int) -> PendingPage | None:
        """The last page of the run from `first` that one sequence computes; None unless its tokens are the same."""
        claim = self._claims.get(keys[first]) if first < most else None
        if claim is None:
            return None
        end = first + 1
        while end < most and self._claims.get(keys[end]) is claim:
            end += 1
        positions = end * self._page_tokens
        if claim.keys[:end] != keys[:end] or claim.tokens[:positions] != tokens[:positions]:
            return None
        return PendingPage(keys[end - 1], claim, self._claims)

    def claim(self, keys: list[bytes], claim: Claim) -> None:
        """Notes who computes these pages; keys that are taken stay as they are."""
        entries, claims = self._entries, self._claims
        claims.update(dict.fromkeys([key for key in keys if key not in entries and key not in claims], claim))

    def unclaim(self, keys: Iterable[bytes], claim: Claim) -> None:
        """Takes back what is left of a claim; whoever waits for it sees that."""
        for key in keys:
            if self._claims.get(key) is claim:
                del self._claims[key]

    def enter(self, entry: Entry, claim: Claim) -> bool:
        """Adds a ready page in place of its writer's claim; False if the key stands for something else."""
        if self._claims.get(entry.key, claim) is not claim or entry.key in self._entries:
            return False
        self._claims.pop(entry.key, None)
        self._entries[entry.key] = entry
        return True

    def mend(self, entry: Entry) -> Entry | None:
        """The ready page of the same tokens, with this one's pages in the groups that evicted theirs.

        `entry` keeps only the pages that were taken from it; None, and no change, if none are.
        """
        known = self._entries.get(entry.key)
        if known is None or (known.parent, known.packed, known.extra) != (entry.parent, entry.packed, entry.extra):
            return None
        taken = [own if page < 0 else -1 for own, page in zip(entry.pages, known.pages, strict=True)]
        if max(taken) < 0:
            return None
        known.pages = [max(pair) for pair in zip(known.pages, taken, strict=True)]
        entry.pages = taken
        return known

    def remove(self, entry: Entry) -> None:
        """Takes an entry out."""
        del self._entries[entry.key]
        entry.alive = False

    def entries(self) -> tuple[Entry, ...]:
        """The ready pages, for checks."""
        return tuple(self._entries.values())

    def check(self, open_ids: Iterable[int]) -> None:
        """Raises AssertionError unless entries and claims exclude each other and every claim has a live writer."""
        assert not self._entries.keys() & self._claims.keys(), "a page is ready and pending"
        assert {claim.writer for claim in self._claims.values()} <= set(open_ids), "a pending page without a writer"
        assert all(entry.alive for entry in self._entries.values()), "a dead page is found"


def _agreeing(entries: list[Entry], keys: list[bytes], packed: bytes, extras: list[bytes]) -> int:
    """How many entries from the first on have exactly these ids after these parents."""
    count = len(entries)
    if not count:
        return 0
    parents = [b"", *keys[: count - 1]]
    if (
        b"".join([entry.packed for entry in entries]) == packed
        and [entry.parent for entry in entries] == parents
        and [entry.extra for entry in entries] == extras[:count]
    ):
        return count
    width = len(packed) // count
    for index, entry in enumerate(entries):
        same = entry.packed == packed[index * width : (index + 1) * width]
        if not same or entry.parent != parents[index] or entry.extra != extras[index]:
            return index
    return count
