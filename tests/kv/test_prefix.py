"""Hashes chain, and the index gives back exactly the tokens asked for."""

import hashlib
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core import Request, SamplingParams
from penstock.kv.prefix import Claim, Entry, PageHasher, PrefixIndex, pack

SIZE = 4


def make_request(tokens, **fields):
    return Request("r", tuple(tokens), SamplingParams(seed=1), **fields)


def filled(tokens, hash_page=lambda data: hashlib.sha256(data).digest()):
    """An index that holds every full page of the tokens, and what to look them up with."""
    hasher, index = PageHasher(SIZE, "model", hash_page), PrefixIndex(SIZE)
    request = make_request(tokens)
    keys = list(hasher.pages(request).keys)
    claim = Claim(0, list(tokens), keys)
    extras = hasher.extras(request, len(keys))
    entered = []
    for i, key in enumerate(keys):
        packed = pack(tokens[i * SIZE : (i + 1) * SIZE])
        entry = Entry(key, keys[i - 1] if i else b"", packed, extras[i], [i])
        entered.append(index.enter(entry, claim))
    return hasher, index, keys, extras, entered


def test_a_key_is_the_hash_of_parent_tokens_and_extra():
    hasher = PageHasher(SIZE, "model")
    request = make_request(range(9), cache_salt="s")
    extra = b"\x05\0\0\0model\0\0\0\0\x01\0\0\0s"
    first = hashlib.sha256(array("q", range(4)).tobytes() + extra).digest()
    second = hashlib.sha256(first + array("q", range(4, 8)).tobytes() + extra).digest()
    assert hasher.pages(request).keys == (first, second)


def test_the_packed_ids_are_those_of_the_whole_pages():
    assert PageHasher(SIZE, "model").pages(make_request(range(9))).packed == pack(range(8))


@given(st.integers(0, 5))
def test_ids_packed_elsewhere_or_here_find_the_same_and_wrong_ones_nothing(count):
    tokens = list(range(16))
    _, index, keys, extras, _ = filled(tokens)
    assert len(index.find(keys, tokens, extras, pack(tokens[: count * SIZE]))[0]) == 4
    if count:
        assert len(index.find(keys, tokens, extras, pack([7] * count * SIZE))[0]) == 0


def test_media_change_the_pages_that_they_touch_and_those_behind():
    hasher = PageHasher(SIZE, "model")
    plain = hasher.pages(make_request(range(16))).keys
    media = hasher.pages(make_request(range(16), media=((6, 3, "digest"),))).keys
    assert media[0] == plain[0] and not set(media[1:]) & set(plain)
    moved = make_request(range(16), media=((5, 3, "digest"),))
    assert hasher.extra(moved, 1) != hasher.extra(make_request(range(16), media=((6, 3, "digest"),)), 1)


@given(st.lists(st.integers(0, 2), min_size=8, max_size=20), st.lists(st.integers(0, 2), min_size=8, max_size=20))
def test_what_is_found_is_the_common_prefix_in_whole_pages(known, asked):
    hasher, index, _, _, _ = filled(known)
    request = make_request(asked)
    keys = list(hasher.pages(request).keys)
    entries, pending = index.find(keys, list(asked), hasher.extras(request, len(keys)))
    same = 0
    while same < min(len(known), len(asked)) // SIZE and known[: (same + 1) * SIZE] == asked[: (same + 1) * SIZE]:
        same += 1
    assert len(entries) == same == index.leading(keys) and pending is None


@pytest.mark.parametrize("changed", [0, 5, 11])
def test_where_hashes_collide_the_tokens_decide(changed):
    # Three keys whatever the tokens are: only the comparison can tell.
    count = [0]

    def collide(data):
        count[0] += 1
        return bytes([(count[0] - 1) % 3])

    hasher, index, _, _, entered = filled(list(range(12)), collide)
    assert entered == [True] * 3
    other = [99 if i == changed else i for i in range(12)]
    request = make_request(other)
    keys = list(hasher.pages(request).keys)
    entries, _ = index.find(keys, other, hasher.extras(request, 3))
    assert len(entries) == changed // SIZE
    assert index.leading(keys) == 3, "the guess looks at hashes alone"


@pytest.mark.parametrize("field", ["parent", "extra"])
def test_parent_and_extra_are_compared_too(field):
    _, index, keys, extras, _ = filled(list(range(12)))
    setattr(index.entries()[1], field, b"other")
    assert len(index.find(keys, list(range(12)), extras)[0]) == 1


def test_a_run_of_claimed_pages_is_waited_for_at_its_end_and_a_key_is_given_once():
    hasher, index = PageHasher(SIZE, "model"), PrefixIndex(SIZE)
    tokens = list(range(16))
    keys = list(hasher.pages(make_request(tokens)).keys)
    extras = hasher.extras(make_request(tokens), 4)
    one, two = Claim(1, tokens, keys), Claim(2, tokens, keys)
    index.claim(keys[:3], one)
    index.claim(keys, two)
    entries, pending = index.find(keys, tokens, extras)
    assert entries == [] and (pending.writer, pending.key) == (1, keys[2]) and pending.pending
    index.check([1, 2])
    with pytest.raises(AssertionError, match="writer"):
        index.check([2])
    assert not index.enter(Entry(keys[0], b"", pack(tokens[:4]), extras[0], [0]), two), "another's claim"
    assert index.enter(Entry(keys[0], b"", pack(tokens[:4]), extras[0], [0]), one)
    assert not index.enter(Entry(keys[0], b"", pack(tokens[:4]), extras[0], [1]), one), "ready already"
    assert len(index.find(keys, tokens, extras)[0]) == 1 and pending.pending
    index.unclaim(keys, one)
    assert not pending.pending
    assert index.find(keys, tokens, extras)[1] is None, "page 1 is nobody's; what comes behind it does not help"


def test_a_claim_on_other_tokens_under_the_same_key_is_not_waited_for():
    hasher, index = PageHasher(SIZE, "model", lambda data: b"same"), PrefixIndex(SIZE)
    theirs, mine = [1] * 4, [2] * 4
    index.claim(list(hasher.pages(make_request(theirs)).keys), Claim(1, theirs, [b"same"]))
    keys = list(hasher.pages(make_request(mine)).keys)
    assert index.find(keys, mine, hasher.extras(make_request(mine), 1)) == ([], None)


def test_a_page_is_mended_with_what_its_groups_lost_by_the_same_tokens_only():
    hasher, index = PageHasher(SIZE, "model"), PrefixIndex(SIZE)
    tokens = list(range(4))
    (key,), (extra,) = hasher.pages(make_request(tokens)).keys, hasher.extras(make_request(tokens), 1)
    claim = Claim(1, tokens, [key])

    def entry(*pages, ids=tokens, parent=b"", more=b""):
        return Entry(key, parent, pack(ids), extra + more, list(pages))

    assert index.mend(entry(1, 2, 3)) is None, "no such page"
    ready = entry(1, -1, -1)
    assert index.enter(ready, claim)
    for other in (
        entry(7, 8, 9, ids=[9] * 4),
        entry(7, 8, 9, parent=b"p"),
        entry(7, 8, 9, more=b"m"),
        entry(7, -1, -1),
    ):
        assert index.mend(other) is None and ready.pages == [1, -1, -1]
    spare = entry(7, 8, -1)
    assert index.mend(spare) is ready and ready.pages == [1, 8, -1] and spare.pages == [-1, 8, -1]
    assert index.mend(entry(7, 9, -1)) is None
