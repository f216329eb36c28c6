"""The pages of one KV group: which are free, held or kept for a later hit.

Knows nothing about tokens, hashes or sequences. Invariant: free + cached + held == total, and a page is in exactly
one of the three.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

Label = TypeVar("Label")


class PagePool(Generic[Label]):
    """Pages 0 … total - 1 with reference counts; unreferenced published pages are kept, least recently used first out.

    Args:
        total: number of pages.

    Attributes:
        total: as given.
        refs: holders of every page.
    """

    __slots__ = ("_cached", "_free", "_labels", "refs", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.refs = [0] * total
        self._free = list(range(total - 1, -1, -1))
        self._cached: dict[int, None] = {}  # insertion order is the order of last use
        self._labels: dict[int, Label] = {}

    @property
    def num_free(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Pages that nobody holds but a later request may hit."""
        return len(self._cached)

    @property
    def num_available(self) -> int:
        """Pages that `take` can give."""
        return len(self._free) + len(self._cached)

    def take(self) -> tuple[int, Label | None]:
        """A page with one holder, and the label it lost if it had to be evicted. The pool must not be empty."""
        label = None
        if self._free:
            page = self._free.pop()
        else:
            page = next(iter(self._cached))
            del self._cached[page]
            label = self._labels.pop(page)
        self.refs[page] = 1
        return page, label

    def hold(self, pages: Iterable[int]) -> None:
        """Adds a holder to pages that are held or cached."""
        refs, cached = self.refs, self._cached
        for page in pages:
            if refs[page] == 0:
                del cached[page]
            refs[page] += 1

    def drop(self, page: int) -> None:
        """Takes one holder away; the last one leaves the page cached if it is published, else free."""
        self.refs[page] -= 1
        if self.refs[page] == 0:
            if page in self._labels:
                self._cached[page] = None
            else:
                self._free.append(page)

    def publish(self, page: int, label: Label) -> None:
        """Marks a held page as findable under the label."""
        self._labels[page] = label

    def withdraw(self, page: int) -> None:
        """Makes a published page unfindable; it is free at once if nobody holds it."""
        del self._labels[page]
        if page in self._cached:
            del self._cached[page]
            self._free.append(page)

    def label(self, page: int) -> Label | None:
        """What the page is published under."""
        return self._labels.get(page)

    def check(self, held: dict[int, int]) -> None:
        """Raises AssertionError unless the books agree with `held`, the number of table entries of every page."""
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a page is free twice"
        assert len(free) + len(cached) + len(held) == self.total, "pages are not conserved"
        assert not free & cached and not free & held.keys() and not cached & held.keys(), "a page is in two places"
        for page in range(self.total):
            assert self.refs[page] == held.get(page, 0), f"page {page} has {self.refs[page]} holders on the books"
        assert cached <= self._labels.keys(), "a cached page is not published"
        assert not free & self._labels.keys(), "a free page is published"
