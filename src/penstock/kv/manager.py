"""Page tables of running sequences over one pool a KV group, with prefix sharing between them.

Knows nothing about who runs next, time or tensors. Invariant: free + cached + held == total in every group, a page
that is written has one holder, and tables only grow (a page behind a window turns to -1).

Life of a full page: entered as *pending* when the sequence that will compute it is opened, *ready* when its last token
is committed, *cached* when nobody holds it any more, evicted when its memory is needed. If the sequence ends before
the page is ready, the entry dies and whoever waited computes the page itself.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from penstock.core import EngineConfig, KvGroup, PageCopy, Request, Sequence
from penstock.kv.pool import PagePool
from penstock.kv.prefix import READY, Entry, PageHash, PageHasher, PrefixIndex, sha256


class Match(NamedTuple):
    """What the index holds of a sequence's tokens.

    Attributes:
        entries: ready pages from the first on, as many as can be used.
        pending: the first page after them that somebody computes right now, or None.
        num_held: pages of them that the sequence would hold, by group.
        num_unheld: of these, how many nobody holds yet (they leave the evictable ones), by group.
    """

    entries: tuple[Entry, ...]
    pending: Entry | None
    num_held: tuple[int, ...]
    num_unheld: tuple[int, ...]


class _Holding:
    """What the manager keeps for one open sequence."""

    __slots__ = ("extra", "keys", "num_full", "owned", "sequence", "trimmed")

    def __init__(self, sequence: Sequence, keys: list[bytes], num_full: int, trimmed: list[int]) -> None:
        self.sequence = sequence
        self.keys = keys
        self.num_full = num_full  # pages that are complete and booked
        self.owned: dict[int, Entry] = {}  # entries that this sequence computes or computed, by page index
        self.trimmed = trimmed  # first page index that may still be held, by group


class KvManager:
    """Page tables, prefix cache and copy-on-write over the groups of one model.

    Args:
        groups: one or more; at most their `window` differs in what is kept.
        config: pages, page_tokens, prefix_cache, max_step_tokens and model_identity are read.
        hash_page: replaces SHA-256 in tests.

    Attributes:
        queries_tokens: prompt tokens looked up at first admission.
        hits_tokens: of these, found.
    """

    def __init__(self, groups: tuple[KvGroup, ...], config: EngineConfig, hash_page: PageHash = sha256) -> None:
        assert len(groups) == len(config.pages), "pages are given for every group"
        self._windows = tuple(group.window for group in groups)
        self._page_tokens, self._prefix_cache = config.page_tokens, config.prefix_cache
        self._chunk_pages = config.depth * -(-config.max_step_tokens // config.page_tokens)
        self._pools = tuple(PagePool[Entry](pages) for pages in config.pages)
        self._hasher = PageHasher(config.page_tokens, config.model_identity, hash_page)
        self._index = PrefixIndex()
        self._open: dict[int, _Holding] = {}
        self._nothing: tuple[tuple[int, ...], ...] = ((),) * len(groups)
        self.queries_tokens = self.hits_tokens = 0

    # Sizes.

    @property
    def num_groups(self) -> int:
        """KV groups."""
        return len(self._pools)

    @property
    def page_tokens(self) -> int:
        """Tokens of a page."""
        return self._page_tokens

    @property
    def pages_total(self) -> int:
        """Pages of all groups."""
        return sum(pool.total for pool in self._pools)

    @property
    def pages_free(self) -> int:
        """Pages of all groups that hold nothing."""
        return sum(pool.num_free for pool in self._pools)

    @property
    def pages_cached(self) -> int:
        """Pages of all groups that nobody holds but a later request may hit."""
        return sum(pool.num_cached for pool in self._pools)

    @property
    def pages_held(self) -> int:
        """Pages of all groups that sequences hold."""
        return self.pages_total - self.pages_free - self.pages_cached

    def available(self) -> list[int]:
        """Pages that can be taken, by group."""
        return [pool.num_available for pool in self._pools]

    def need(self, num_tokens: int) -> list[int]:
        """Pages that a sequence of so many tokens holds at most, by group (a window: its last pages and a chunk)."""
        pages = -(-num_tokens // self._page_tokens)
        return [
            pages if window is None else min(pages, -(-window // self._page_tokens) + 2 + self._chunk_pages)
            for window in self._windows
        ]

    def fits(self, num_tokens: int) -> bool:
        """Whether a sequence of so many tokens fits when it is alone."""
        return all(need <= pool.total for need, pool in zip(self.need(num_tokens), self._pools, strict=True))

    def max_tokens(self, limit: int) -> int:
        """The longest sequence ≤ limit that fits when it is alone."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(middle) else (low, middle - 1)
        return low

    # Finding.

    def page_hashes(self, request: Request) -> tuple[bytes, ...]:
        """Chained hashes of the prompt's full pages; plain data, callable from any thread."""
        return self._hasher.keys(request) if self._prefix_cache else ()

    def estimate(self, keys: Collection[bytes]) -> int:
        """Tokens that the index seems to hold of a prompt, pending ones included; a guess that compares hashes only."""
        count = 0
        for key in keys:
            if self._index.claim(key):
                break
            count += 1
        return count * self._page_tokens

    def match(self, sequence: Sequence, keys: list[bytes]) -> Match:
        """Pages that the sequence need not compute; the last known token is always left to compute."""
        entries: list[Entry] = []
        pending: Entry | None = None
        if self._prefix_cache:
            most = min(len(keys), (len(sequence.tokens) - 1) // self._page_tokens)
            for index in range(most):
                entry = self._find(sequence, keys, index)
                if entry is None:
                    break
                if entry.pending:
                    pending = entry
                    break
                if any(entry.pages[g] < 0 for g, window in enumerate(self._windows) if window is None):
                    break
                entries.append(entry)
        usable = entries[: self._usable(entries)]
        held, unheld = [0] * len(self._pools), [0] * len(self._pools)
        for group, pool in enumerate(self._pools):
            for entry in usable[self._first_kept(group, len(usable) * self._page_tokens) :]:
                held[group] += 1
                unheld[group] += pool.refs[entry.pages[group]] == 0
        return Match(tuple(usable), pending, tuple(held), tuple(unheld))

    def _find(self, sequence: Sequence, keys: list[bytes], index: int) -> Entry | None:
        size = self._page_tokens
        tokens = tuple(sequence.tokens[index * size : (index + 1) * size])
        parent = keys[index - 1] if index else b""
        return self._index.find(keys[index], parent, tokens, self._hasher.extra(sequence.request, index))

    def _usable(self, entries: list[Entry]) -> int:
        """The longest prefix of the entries whose last window is there in every windowed group."""
        windowed = [group for group, window in enumerate(self._windows) if window is not None]
        if not windowed:
            return len(entries)
        best = 0
        runs = dict.fromkeys(windowed, 0)  # pages present without a gap up to here
        for count, entry in enumerate(entries, 1):
            for group in windowed:
                runs[group] = runs[group] + 1 if entry.pages[group] >= 0 else 0
            if all(runs[g] >= count - self._first_kept(g, count * self._page_tokens) for g in windowed):
                best = count
        return best

    def _first_kept(self, group: int, position: int) -> int:
        """Index of the first page that a token at `position` may still read."""
        window = self._windows[group]
        return 0 if window is None else max(0, position - window) // self._page_tokens

    # Tables.

    def open(self, sequence: Sequence, keys: list[bytes], match: Match | None) -> None:
        """Gives the sequence tables with the matched pages in them; enters the rest of its full pages as pending.

        Args:
            sequence: has no tables yet; its num_computed and num_scheduled are set.
            keys: page hashes of its tokens so far; extended as pages fill up.
            match: what `match` found in this same state, or None to compute everything.
        """
        entries = match.entries if match is not None else ()
        computed = len(entries) * self._page_tokens
        trimmed = [self._first_kept(group, computed) for group in range(len(self._pools))]
        tables: list[list[int]] = []
        for group, pool in enumerate(self._pools):
            table = [-1] * trimmed[group]
            for entry in entries[trimmed[group] :]:
                pool.hold(entry.pages[group])
                table.append(entry.pages[group])
            tables.append(table)
        sequence.tables = tuple(tables)
        sequence.num_computed = sequence.num_scheduled = computed
        holding = _Holding(sequence, keys, len(entries), trimmed)
        self._open[sequence.id] = holding
        if self._prefix_cache:
            for index in range(len(entries), min(len(keys), len(sequence.tokens) // self._page_tokens)):
                self._enter(holding, index)

    def _enter(self, holding: _Holding, index: int) -> None:
        """Enters a page of the sequence as pending, unless its key is taken."""
        key = holding.keys[index]
        if not self._index.claim(key):
            return
        sequence, size = holding.sequence, self._page_tokens
        tokens = tuple(sequence.tokens[index * size : (index + 1) * size])
        parent = holding.keys[index - 1] if index else b""
        entry = Entry(key, parent, tokens, self._hasher.extra(sequence.request, index), sequence.id)
        entry.pages = [-1] * len(self._pools)
        self._index.enter(entry)
        holding.owned[index] = entry

    def can_fork(self, source: Sequence, target: Sequence) -> bool:
        """Whether the source has computed the target's prompt and still holds what the target needs of it."""
        computed = target.num_prompt - 1
        if source.num_computed < computed or not source.tables:
            return False
        full = -(-computed // self._page_tokens)
        return all(
            min(table[self._first_kept(group, computed) : full], default=0) >= 0
            for group, table in enumerate(source.tables)
        )

    def shared_by_fork(self, target: Sequence) -> list[int]:
        """Full pages that a fork shares, by group."""
        computed = target.num_prompt - 1
        full = computed // self._page_tokens
        return [max(0, full - self._first_kept(group, computed)) for group in range(len(self._pools))]

    def fork(self, source: Sequence, target: Sequence, keys: list[bytes]) -> tuple[PageCopy, ...] | None:
        """Shares the source's prompt with a sample of the same request; the last prompt token is left to compute.

        Full pages are shared, a partly filled one is copied. Returns the copies, or None where the source has not
        come so far, has let go of a page that the target needs, or no page is left for a copy.
        """
        computed = target.num_prompt - 1
        full, rest = divmod(computed, self._page_tokens)
        firsts = [self._first_kept(group, computed) for group in range(len(self._pools))]
        if not self.can_fork(source, target) or (rest and any(pool.num_available < 1 for pool in self._pools)):
            return None
        tables: list[list[int]] = []
        copies: list[PageCopy] = []
        for group, pool in enumerate(self._pools):
            table = [-1] * firsts[group] + source.tables[group][firsts[group] : full]
            for page in table[firsts[group] :]:
                pool.hold(page)
            if rest:
                page = self._take(group)
                copies.append(PageCopy(group, source.tables[group][full], page))
                table.append(page)
            tables.append(table)
        target.tables = tuple(tables)
        target.num_computed = target.num_scheduled = computed
        self._open[target.id] = _Holding(target, keys, full, firsts)
        return tuple(copies)

    def grow(self, sequence: Sequence, num_tokens: int) -> tuple[tuple[int, ...], ...] | None:
        """Pages appended to each table so that it covers `num_tokens` positions; None, and no change, if they lack."""
        missing = -(-num_tokens // self._page_tokens) - len(sequence.tables[0])
        if missing <= 0:
            return self._nothing
        for pool in self._pools:
            if pool.num_available < missing:
                return None
        grown: list[tuple[int, ...]] = []
        for group, table in enumerate(sequence.tables):
            pages = tuple([self._take(group) for _ in range(missing)])
            table.extend(pages)
            grown.append(pages)
        return tuple(grown)

    def outstanding(self, sequence: Sequence, num_tokens: int) -> list[int]:
        """Pages that the sequence may still take until it has so many tokens, by group."""
        trimmed = self._open[sequence.id].trimmed
        return [
            max(0, need - len(table) + first)
            for need, table, first in zip(self.need(num_tokens), sequence.tables, trimmed, strict=True)
        ]

    def room(self, sequence: Sequence) -> int:
        """Positions that the sequence's tables could cover with every page that can be taken."""
        spare = min(pool.num_available for pool in self._pools)
        return (len(sequence.tables[0]) + spare) * self._page_tokens

    def _take(self, group: int) -> int:
        page, entry = self._pools[group].take()
        if entry is not None:
            entry.pages[group] = -1
            if max(entry.pages) < 0:
                self._index.remove(entry)
        return page

    def commit(self, sequence: Sequence) -> None:
        """Books the pages that `sequence.num_computed` completes, and lets go of those behind a window."""
        holding = self._open[sequence.id]
        for index in range(holding.num_full, sequence.num_computed // self._page_tokens):
            if self._prefix_cache:
                self._ready(holding, index)
            holding.num_full = index + 1
        for group, window in enumerate(self._windows):
            if window is not None:
                self._trim(holding, group)

    def _ready(self, holding: _Holding, index: int) -> None:
        sequence, keys = holding.sequence, holding.keys
        if index == len(keys):
            size = self._page_tokens
            tokens = sequence.tokens[index * size : (index + 1) * size]
            extra = self._hasher.extra(sequence.request, index)
            keys.append(self._hasher.key(keys[-1] if keys else b"", tokens, extra))
        if index not in holding.owned:
            self._enter(holding, index)
        entry = holding.owned.get(index)
        if entry is None or not entry.alive:
            return
        entry.writer = READY
        for group, table in enumerate(sequence.tables):
            entry.pages[group] = table[index]
            if table[index] >= 0:
                self._pools[group].publish(table[index], entry)

    def _trim(self, holding: _Holding, group: int) -> None:
        table = holding.sequence.tables[group]
        # One position less than the sequence needs: other samples start from its last prompt token.
        first = min(self._first_kept(group, holding.sequence.num_computed - 1), len(table))
        for index in range(holding.trimmed[group], first):
            self._pools[group].drop(table[index])
            table[index] = -1
        holding.trimmed[group] = max(first, holding.trimmed[group])

    def abandon(self, sequence: Sequence, *, poisoned: bool = False) -> None:
        """Withdraws the pages that the sequence will not complete; with `poisoned` also those it completed."""
        holding = self._open.get(sequence.id)
        if holding is None:
            return
        for entry in holding.owned.values():
            if not entry.alive or not (poisoned or entry.pending):
                continue
            self._index.remove(entry)
            for group, page in enumerate(entry.pages):
                if page >= 0:
                    self._pools[group].withdraw(page)
        if poisoned:
            holding.owned.clear()

    def release(self, sequence: Sequence) -> None:
        """Takes the sequence's tables away; ready pages stay findable, the last ones are evicted first."""
        self.abandon(sequence)
        holding = self._open.pop(sequence.id)
        for group, table in enumerate(sequence.tables):
            pool = self._pools[group]
            for page in reversed(table[holding.trimmed[group] :]):
                pool.drop(page)
        sequence.tables = ()
        sequence.num_computed = sequence.num_scheduled = 0

    def check(self) -> None:
        """Raises AssertionError unless every page is accounted for and no shared page is being written."""
        for group, pool in enumerate(self._pools):
            held: dict[int, int] = {}
            for holding in self._open.values():
                for page in holding.sequence.tables[group]:
                    if page >= 0:
                        held[page] = held.get(page, 0) + 1
            pool.check(held)
            for holding in self._open.values():
                sequence = holding.sequence
                for page in sequence.tables[group][sequence.num_computed // self._page_tokens :]:
                    assert page < 0 or pool.refs[page] == 1, f"page {page} is written by two"
            for entry in self._index.entries():
                page = entry.pages[group]
                assert page < 0 or pool.label(page) is entry, f"page {page} is published under another key"
        for entry in self._index.entries():
            assert entry.alive and (max(entry.pages) >= 0) != entry.pending, "a ready entry without pages"
            if entry.pending:
                assert entry.writer in self._open, "a pending page without a writer"
