"""Prefix sharing, windows and forks of the KV manager."""

from dataclasses import replace

import pytest

from penstock.core import EngineConfig, KvGroup, Request, SamplingParams, Sequence
from penstock.kv import KvManager

FULL = KvGroup("full", (0,), 1)
WINDOW = KvGroup("window", (1,), 1, window=6)


def make_kv(groups=(FULL,), pages=12, **more):
    config = EngineConfig(1000, 100, (pages,) * len(groups), page_tokens=4, max_step_tokens=8)
    return KvManager(groups, config, **more)


def make_sequence(id, tokens, **fields):
    request = Request(f"r{id}", tuple(tokens), SamplingParams(seed=1), **fields)
    return Sequence(id, request, 0, list(tokens), len(tokens))


def start(kv, sequence):
    keys = list(kv.prompt_pages(sequence.request).keys)
    match = kv.match(sequence, keys)
    kv.open(sequence, keys, match)
    return match


def compute(kv, sequence, num_tokens):
    assert kv.grow(sequence, num_tokens) is not None
    sequence.num_computed = sequence.num_scheduled = num_tokens
    kv.commit(sequence)
    kv.check()


def test_a_prefix_is_pending_then_ready_then_cached():
    kv = make_kv()
    one, two = make_sequence(0, range(10)), make_sequence(1, range(10))
    start(kv, one)
    keys = list(kv.prompt_pages(two.request).keys)
    assert kv.match(two, keys).pending.writer == 0
    compute(kv, one, 9)
    match = kv.match(two, keys)
    assert match.pending is None and len(match.entries) == 2 and match.num_unheld == (0,)
    kv.release(one)
    assert kv.match(two, keys).num_unheld == (2,) and kv.pages_cached == 2
    kv.open(two, keys, kv.match(two, keys))
    kv.check()
    assert two.num_computed == 8 and kv.pages_cached == 0


def test_the_last_token_is_always_left_to_compute():
    kv = make_kv()
    one = make_sequence(0, range(8))
    start(kv, one)
    compute(kv, one, 8)
    two = make_sequence(1, range(8))
    assert len(start(kv, two).entries) == 1
    kv.check()


def test_an_abandoned_page_frees_its_waiters():
    kv = make_kv()
    one, two = make_sequence(0, range(10)), make_sequence(1, range(10))
    start(kv, one)
    entry = kv.match(two, list(kv.prompt_pages(two.request).keys)).pending
    kv.release(one)
    assert not entry.pending
    assert start(kv, two).entries == () and two.num_computed == 0


def test_equal_hashes_of_other_tokens_are_no_hit():
    kv = make_kv(hash_page=lambda data: b"same")
    one, two, same = make_sequence(0, [1] * 6), make_sequence(1, [2] * 6), make_sequence(2, [1] * 6)
    start(kv, one)
    compute(kv, one, 5)
    assert kv.match(two, list(kv.prompt_pages(two.request).keys)).entries == ()
    assert len(kv.match(same, list(kv.prompt_pages(same.request).keys)).entries) == 1


@pytest.mark.parametrize("field", [{"cache_salt": "s"}, {"adapter": "a"}, {"media": ((1, 2, "digest"),)}])
def test_what_the_values_depend_on_is_part_of_the_hash(field):
    kv = make_kv()
    plain = make_sequence(0, range(10)).request
    other = replace(plain, **field)
    assert kv.prompt_pages(plain).keys[0] != kv.prompt_pages(other).keys[0]
    assert kv.prompt_pages(plain).keys == kv.prompt_pages(replace(plain, id="z", tenant="t")).keys


def test_fields_cannot_be_shifted_into_each_other():
    kv = make_kv()
    one = make_sequence(0, range(4), cache_salt="ab", adapter="c").request
    assert kv.prompt_pages(one).keys != kv.prompt_pages(replace(one, cache_salt="b", adapter="ca")).keys


def test_pages_behind_the_window_are_freed_in_that_group_only():
    kv = make_kv((FULL, WINDOW))
    one = make_sequence(0, range(40))
    start(kv, one)
    compute(kv, one, 16)
    full, window = one.tables
    assert min(full) >= 0 and window[:2] == [-1, -1] and min(window[2:]) >= 0
    two = make_sequence(1, range(40))
    kv.abandon(one)
    match = start(kv, two)
    assert len(match.entries) == 4 and two.tables[1][:2] == [-1, -1] and two.tables[1][2:] == window[2:]
    kv.check()


def test_beside_a_window_pages_are_set_aside_for_what_is_left_to_compute():
    kv = make_kv((FULL, WINDOW), pages=40)
    one = make_sequence(0, range(60))
    start(kv, one)
    kv.reserve(one, 100)
    assert kv.spare() == [15, 34]  # 25 of everything; 2 of the window, 2 for its edges, 2 of a step of 8 tokens
    compute(kv, one, 8)
    assert kv.spare() == [15, 34]
    for end in (*range(16, 60, 8), 60):
        compute(kv, one, end)
    one.tokens.append(1)
    for end in range(61, 101):
        compute(kv, one, end)
        one.tokens.append(1)
        assert kv.spare() == [15, 34] or end > 84  # so near the end fewer pages are left to come


def test_long_steps_cost_a_window_nothing_once_the_prompt_is_done():
    config = EngineConfig(1000, 100, (40, 40), page_tokens=4, max_step_tokens=64)
    kv = KvManager((FULL, WINDOW), config)
    one = make_sequence(0, range(60))
    start(kv, one)
    kv.reserve(one, 100)
    assert kv.spare() == [15, 20]
    compute(kv, one, 60)
    one.tokens.append(1)
    compute(kv, one, 61)
    assert kv.spare() == [15, 34], "2 pages of the window, 2 for its edges, 2 for tokens to come"
    for end in range(62, 101):
        one.tokens.append(1)
        compute(kv, one, end)
        assert len([page for page in one.tables[1] if page >= 0]) <= 6
        assert kv.spare() == [15, 34] or end > 84


def test_a_hit_needs_the_last_window_too():
    kv = make_kv((FULL, WINDOW), pages=6)
    one = make_sequence(0, range(16))
    start(kv, one)
    compute(kv, one, 16)
    kv.release(one)
    assert len(kv.match(make_sequence(1, range(16)), list(kv.prompt_pages(one.request).keys)).entries) == 3
    gone = kv.match(make_sequence(1, range(16)), list(kv.prompt_pages(one.request).keys)).entries[1]
    while gone.pages[1] >= 0:  # free pages first, then the ones used longest ago
        kv._take(1)
    match = kv.match(make_sequence(3, range(16)), list(kv.prompt_pages(one.request).keys))
    assert match.entries == ()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_page_that_one_group_lost_is_found_again_once_somebody_computed_it(lost):
    kv = make_kv((FULL, WINDOW), pages=8)
    one, two = make_sequence(0, range(16)), make_sequence(1, range(16))
    start(kv, one)
    compute(kv, one, 16)
    kv.release(one)
    taken = [kv._take(lost) for _ in range(8)]  # everything that this group had
    for page in taken:
        kv._pools[lost].drop(page)
    kv.check()
    assert start(kv, two).entries == ()
    compute(kv, two, 16)
    kv.release(two)
    three = make_sequence(2, range(16))
    assert len(start(kv, three).entries) == 3
    kv.check()


def test_the_least_recently_used_page_is_evicted_and_its_entry_with_it():
    kv = make_kv(pages=4)
    for id, token in enumerate((1, 2)):
        sequence = make_sequence(id, [token] * 5)
        start(kv, sequence)
        compute(kv, sequence, 5)
        kv.release(sequence)
    assert (kv.pages_free, kv.pages_cached) == (2, 2)
    hog = make_sequence(9, [7] * 12)
    start(kv, hog)
    compute(kv, hog, 12)
    old, new = make_sequence(10, [1] * 5), make_sequence(11, [2] * 5)
    assert kv.match(old, list(kv.prompt_pages(old.request).keys)).entries == ()
    assert len(kv.match(new, list(kv.prompt_pages(new.request).keys)).entries) == 1


def test_a_fork_shares_full_pages_and_copies_the_partial_one():
    kv = make_kv()
    one = make_sequence(0, range(11))
    start(kv, one)
    compute(kv, one, 11)
    two = Sequence(1, one.request, 1, list(range(11)), 11)
    (copy,) = kv.fork(one, two, [])
    assert one.tables[0][:2] == two.tables[0][:2] and (copy.source, copy.target) == (one.tables[0][2], two.tables[0][2])
    assert copy.source != copy.target and two.num_computed == 10
    kv.check()
    kv.release(one)
    kv.check()


def test_poisoned_pages_are_withdrawn_even_when_they_were_ready():
    kv = make_kv()
    one = make_sequence(0, range(10))
    start(kv, one)
    compute(kv, one, 9)
    kv.abandon(one, poisoned=True)
    kv.release(one)
    kv.check()
    assert kv.pages_cached == 0
    assert kv.match(make_sequence(1, range(10)), list(kv.prompt_pages(one.request).keys)).entries == ()


def test_growing_beyond_the_pages_changes_nothing():
    kv = make_kv(pages=2)
    one = make_sequence(0, range(20))
    start(kv, one)
    assert kv.grow(one, 12) is None
    kv.check()
    assert kv.pages_free == 2 and one.tables == ([],)


def test_the_check_sees_a_lost_page_and_a_second_writer():
    kv = make_kv()
    one, two = make_sequence(0, range(10)), make_sequence(1, range(50, 60))
    start(kv, one)
    compute(kv, one, 5)
    start(kv, two)
    two.tables[0].append(one.tables[0][1])
    with pytest.raises(AssertionError):
        kv.check()
    two.tables[0].pop()
    kv.check()
    kv._pools[0]._free.pop()
    with pytest.raises(AssertionError, match="conserved"):
        kv.check()
