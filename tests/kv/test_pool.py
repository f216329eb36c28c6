"""Pages are in one place each, and the ones used longest ago go first."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.kv.pool import PagePool


def published(pool, label):
    page, _ = pool.take()
    pool.publish(page, label)
    pool.drop(page)
    return page


def test_free_pages_are_taken_before_cached_ones_and_those_by_age():
    pool = PagePool(3)
    old, new = published(pool, "old"), published(pool, "new")
    pool.hold([old])
    pool.drop(old)  # used again: now the newest
    assert pool.take()[1] is None
    assert pool.take() == (new, "new") and pool.take() == (old, "old")
    assert pool.num_available == 0


def test_a_withdrawn_page_is_free_once_nobody_holds_it():
    pool = PagePool(2)
    cached = published(pool, "a")
    pool.withdraw(cached)
    assert (pool.num_free, pool.num_cached, pool.label(cached)) == (2, 0, None)
    held, _ = pool.take()
    pool.publish(held, "b")
    pool.withdraw(held)
    assert pool.num_free == 1
    pool.drop(held)
    assert pool.num_free == 2


@pytest.mark.parametrize("harm", ["lost", "twice", "holders"])
def test_the_check_sees_books_that_disagree(harm):
    pool = PagePool(4)
    page, _ = pool.take()
    pool.check({page: 1})
    if harm == "lost":
        pool._free.pop()
    elif harm == "twice":
        pool._free.append(pool._free[0])
    with pytest.raises(AssertionError):
        pool.check({page: 2} if harm == "holders" else {page: 1})


class PoolMachine(RuleBasedStateMachine):
    """The pool beside a plain model: a dictionary of holders, and labels in the order of last use."""

    def __init__(self):
        super().__init__()
        self.pool, self.held, self.labels, self.cached = PagePool(5), {}, {}, []

    @precondition(lambda self: len(self.held) < 5)
    @rule()
    def take(self):
        free = 5 - len(self.held) - len(self.cached)
        page, lost = self.pool.take()
        assert page not in self.held
        if free:
            assert lost is None
        else:
            assert page == self.cached.pop(0) and lost == self.labels.pop(page)
        self.held[page] = 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def drop(self, data):
        page = data.draw(st.sampled_from(sorted(self.held)))
        self.pool.drop(page)
        self.held[page] -= 1
        if not self.held[page]:
            del self.held[page]
            if page in self.labels:
                self.cached.append(page)

    @precondition(lambda self: self.held or self.cached)
    @rule(data=st.data())
    def hold(self, data):
        page = data.draw(st.sampled_from(sorted([*self.held, *self.cached])))
        self.pool.hold([page])
        self.held[page] = self.held.get(page, 0) + 1
        if page in self.cached:
            self.cached.remove(page)

    @precondition(lambda self: self.held.keys() - self.labels.keys())
    @rule(label=st.integers())
    def publish(self, label):
        page = min(self.held.keys() - self.labels.keys())
        self.pool.publish(page, label)
        self.labels[page] = label

    @precondition(lambda self: self.labels)
    @rule(data=st.data())
    def withdraw(self, data):
        page = data.draw(st.sampled_from(sorted(self.labels)))
        self.pool.withdraw(page)
        del self.labels[page]
        if page in self.cached:
            self.cached.remove(page)

    @invariant()
    def books_agree(self):
        self.pool.check(self.held)
        assert self.pool.num_cached == len(self.cached)
        assert self.pool.num_free == 5 - len(self.held) - len(self.cached)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
