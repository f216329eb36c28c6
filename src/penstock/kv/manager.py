"""Page tables of running sequences over one pool a KV group, with prefix sharing between them.

Knows nothing about who runs next, time or tensors. Invariant: free + cached + held == total in every group, a page
that is written has one holder, and tables only grow (a page behind a window turns to -1).

Life of a full page: *pending* from when the sequence that will compute it is opened, *ready* when its last token is
committed, *cached* when nobody holds it any more, evicted when its memory is needed. If the sequence ends before the
page is ready, its claim is taken back and whoever waited computes the page itself.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from penstock.core import EngineConfig, KvGroup, PageCopy, Request, Sequence
from penstock.kv.holding import Holding
from penstock.kv.pool import PagePool
from penstock.kv.prefix import Claim, Entry, PageHash, PageHasher, PendingPage, PrefixIndex, PromptPages, pack, sha256
from penstock.kv.size import chunk_now, pages_needed


class Match(NamedTuple):
    """What the index holds of a sequence's tokens.

    Attributes:
        entries: ready pages from the first on, as many as can be used.
        pending: the last of the pages after them that somebody computes right now, or None.
        num_held: pages of them that the sequence would hold, by group.
        num_unheld: of these, how many nobody holds yet (they leave the evictable ones), by group.
    """

    entries: tuple[Entry, ...]
    pending: PendingPage | None
    num_held: tuple[int, ...]
    num_unheld: tuple[int, ...]


class KvManager:
    """Page tables, prefix cache and copy-on-write over the groups of one model.

    Args:
        groups: one or more; at most their `window` differs in what is kept.
        config: pages, page_tokens, prefix_cache, max_step_tokens and model_identity are read.
        hash_page: replaces SHA-256 in tests.

    Attributes:
        queries_tokens: prompt tokens looked up at first admission.
        hits_tokens: of these, found.
        gains: counts what can make a match hold more pages that somebody holds already: a page that became ready, a
            cached page that found a holder.
    """

    def __init__(self, groups: tuple[KvGroup, ...], config: EngineConfig, hash_page: PageHash = sha256) -> None:
        assert len(groups) == len(config.pages), "pages are given for every group"
        self._windows = tuple(group.window for group in groups)
        self._page_tokens, self._prefix_cache = config.page_tokens, config.prefix_cache
        self._depth, self._chunk_pages = config.depth, config.depth * -(-config.max_step_tokens // config.page_tokens)
        self._pools = tuple(PagePool[Entry](pages) for pages in config.pages)
        self._hasher = PageHasher(config.page_tokens, config.model_identity, hash_page)
        self._index = PrefixIndex(config.page_tokens)
        self._open: dict[int, Holding] = {}
        self._nothing: tuple[tuple[int, ...], ...] = ((),) * len(groups)
        self._promised = [0] * len(groups)
        self.queries_tokens = self.hits_tokens = self.gains = 0

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

    def spare(self) -> list[int]:
        """Pages that are neither held nor set aside by `reserve`, by group; may be negative."""
        return [pool.num_available - owed for pool, owed in zip(self._pools, self._promised, strict=True)]

    def need(self, num_tokens: int) -> list[int]:
        """Pages that a sequence of so many tokens holds at most, by group (a window: its last pages and a chunk)."""
        return [pages_needed(num_tokens, window, self._page_tokens, self._chunk_pages) for window in self._windows]

    def takes(self, num_tokens: int, num_found: int, unheld: Collection[int]) -> list[int]:
        """Pages that leave the available ones at most, by group, for so many tokens whose first pages were found.

        Args:
            num_tokens: of the sequence.
            num_found: pages that it starts with.
            unheld: of these, those that nobody held, by group.
        """
        left = -(-num_tokens // self._page_tokens) - num_found
        need = self.need(num_tokens)
        return [max(0, min(left, most - new)) + new for most, new in zip(need, unheld, strict=True)]

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

    def prompt_pages(self, request: Request) -> PromptPages:
        """Chained hashes of the prompt's full pages, and what is compared on a hit; callable from any thread."""
        return self._hasher.pages(request) if self._prefix_cache else PromptPages((), b"")

    def estimate(self, keys: Collection[bytes]) -> int:
        """Tokens that the index seems to hold of a prompt, pending ones included; a guess that compares hashes only."""
        return self._index.leading(keys) * self._page_tokens

    def match(self, sequence: Sequence, keys: list[bytes], packed: bytes = b"") -> Match:
        """Pages that the sequence need not compute (the last known token is); `packed` comes from `prompt_pages`."""
        entries: list[Entry] = []
        pending: PendingPage | None = None
        if self._prefix_cache:
            most = min(len(keys), (len(sequence.tokens) - 1) // self._page_tokens)
            extras = self._hasher.extras(sequence.request, most)
            entries, pending = self._index.find(keys, sequence.tokens, extras, packed)
        if len(self._pools) > 1:
            whole = self._whole(entries)
            pending = pending if whole == len(entries) else None
            entries = entries[: self._usable(entries[:whole])]
        held, unheld = [0] * len(self._pools), [0] * len(self._pools)
        for group, pool in enumerate(self._pools):
            first, refs = self._first_kept(group, len(entries) * self._page_tokens), pool.refs
            held[group] = len(entries) - first
            unheld[group] = [refs[entry.pages[group]] for entry in entries[first:]].count(0)
        return Match(tuple(entries), pending, tuple(held), tuple(unheld))

    def _whole(self, entries: list[Entry]) -> int:
        """How many entries from the first on still have their page in every group without a window."""
        full = [group for group, window in enumerate(self._windows) if window is None]
        for index, entry in enumerate(entries):
            if any(entry.pages[group] < 0 for group in full):
                return index
        return len(entries)

    def _usable(self, entries: list[Entry]) -> int:
        """The longest prefix of the entries whose last window is there in every windowed group."""
        windowed = [group for group, window in enumerate(self._windows) if window is not None]
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
            held = [entry.pages[group] for entry in entries[trimmed[group] :]]
            pool.hold(held)
            tables.append([-1] * trimmed[group] + held)
        sequence.tables = tuple(tables)
        sequence.num_computed = sequence.num_scheduled = computed
        holding = self._begin(sequence, keys, len(entries), trimmed)
        if match is not None:
            self.gains += max(match.num_unheld)
        if self._prefix_cache:
            holding.claim = Claim(sequence.id, sequence.tokens, keys)
            self._index.claim(keys[len(entries) : len(sequence.tokens) // self._page_tokens], holding.claim)

    def _begin(self, sequence: Sequence, keys: list[bytes], num_full: int, trimmed: list[int]) -> Holding:
        holding = self._open[sequence.id] = Holding(sequence, keys, num_full, trimmed)
        if not sequence.request.media:
            holding.extra = self._hasher.extra(sequence.request, 0)
        return holding

    def reserve(self, sequence: Sequence, num_tokens: int) -> None:
        """Sets pages aside for so many tokens of an open sequence: `spare` leaves them out until they are taken."""
        holding = self._open[sequence.id]
        holding.reserved = num_tokens
        self._promise(holding)

    def _promise(self, holding: Holding) -> None:
        """Brings what is set aside up to date after the sequence's tables changed.

        Beside a window, a chunk of what is left to compute: one token at a time once the prompt is done. Pages that
        others hold too are not counted there: when the window has passed them, they are not free for other use.
        """
        sequence, size = holding.sequence, self._page_tokens
        chunk = min(chunk_now(len(sequence.tokens) - sequence.num_computed, size, self._depth), self._chunk_pages)
        total = -(-holding.reserved // size)
        for group, table in enumerate(sequence.tables):
            owed, window = total - len(table), self._windows[group]
            if window is not None and owed > 0:
                refs = self._pools[group].refs
                own = sum([refs[page] == 1 for page in table[holding.trimmed[group] :]])
                owed = min(owed, pages_needed(holding.reserved, window, size, chunk) - own)
            owed = max(0, owed)
            self._promised[group] += owed - holding.promised[group]
            holding.promised[group] = owed

    def can_fork(self, source: Sequence, target: Sequence) -> bool:
        """Whether the source has computed the target's prompt and still holds what the target needs of it."""
        computed = target.num_prompt - 1
        if source.num_computed < computed or not source.tables:
            return False
        trimmed = self._open[source.id].trimmed
        return all(first <= self._first_kept(group, computed) for group, first in enumerate(trimmed))

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
            pool.hold(table[firsts[group] :])
            if rest:
                page = self._take(group)
                copies.append(PageCopy(group, source.tables[group][full], page))
                table.append(page)
            tables.append(table)
        target.tables = tuple(tables)
        target.num_computed = target.num_scheduled = computed
        holding = self._begin(target, keys, full, firsts)
        if self._prefix_cache:
            holding.claim = Claim(target.id, target.tokens, keys)
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
        self._promise(self._open[sequence.id])
        return tuple(grown)

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
        full = sequence.num_computed // self._page_tokens
        if self._prefix_cache:
            for index in range(holding.num_full, full):
                self._ready(holding, index)
        holding.num_full = max(holding.num_full, full)
        for group, window in enumerate(self._windows):
            if window is not None:
                self._trim(holding, group)

    def _ready(self, holding: Holding, index: int) -> None:
        """Enters a page that is complete, or gives the one of its key what that has lost."""
        sequence, keys, size = holding.sequence, holding.keys, self._page_tokens
        packed = pack(sequence.tokens[index * size : (index + 1) * size])
        extra = self._hasher.extra(sequence.request, index) if holding.extra is None else holding.extra
        parent = keys[index - 1] if index else b""
        if index == len(keys):
            keys.append(self._hasher.key(parent, packed, extra))
        assert holding.claim is not None, "an open sequence claims its pages"
        entry = Entry(keys[index], parent, packed, extra, [table[index] for table in sequence.tables])
        known = entry if self._index.enter(entry, holding.claim) else self._index.mend(entry)
        if known is None:
            return
        holding.owned.append(known)
        self.gains += 1
        for pool, page in zip(self._pools, entry.pages, strict=True):
            if page >= 0:
                pool.publish(page, known)

    def _trim(self, holding: Holding, group: int) -> None:
        table = holding.sequence.tables[group]
        # One position less than the sequence needs: other samples start from its last prompt token.
        first = min(self._first_kept(group, holding.sequence.num_computed - 1), len(table))
        if first <= holding.trimmed[group]:
            return
        for index in range(holding.trimmed[group], first):
            self._pools[group].drop(table[index])
            table[index] = -1
        holding.trimmed[group] = first
        self._promise(holding)

    def abandon(self, sequence: Sequence, *, poisoned: bool = False) -> None:
        """Withdraws the pages that the sequence will not complete; with `poisoned` also those it completed."""
        holding = self._open.get(sequence.id)
        if holding is None:
            return
        if holding.claim is not None:
            self._index.unclaim(holding.keys[holding.num_full :], holding.claim)
        if not poisoned:
            return
        for entry in holding.owned:
            if not entry.alive:
                continue
            self._index.remove(entry)
            for pool, page in zip(self._pools, entry.pages, strict=True):
                if page >= 0:
                    pool.withdraw(page)
        holding.owned.clear()

    def release(self, sequence: Sequence) -> None:
        """Takes the sequence's tables away; ready pages stay findable, the last ones are evicted first."""
        self.abandon(sequence)
        holding = self._open.pop(sequence.id)
        for group, table in enumerate(sequence.tables):
            pool = self._pools[group]
            for page in reversed(table[holding.trimmed[group] :]):
                pool.drop(page)
            self._promised[group] -= holding.promised[group]
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
            owed = sum(holding.promised[group] for holding in self._open.values())
            assert self._promised[group] == owed >= 0, "what is set aside is not what was promised"
        assert all(max(entry.pages) >= 0 for entry in self._index.entries()), "a ready entry without pages"
        self._index.check(self._open)
