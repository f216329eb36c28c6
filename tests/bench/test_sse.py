from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.sse import EventStream
from penstock.core.limits import MAX_EVENT_BYTES

STREAM = b': ping\n\ndata: {"a": 1}\n\nevent: x\ndata:two\ndata: lines\n\nid: 7\n\n\ndata: [DONE]\n\n'
EVENTS = [b'{"a": 1}', b"two\nlines", b"[DONE]"]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(ends)]


@given(st.lists(st.integers(0, 10_000), max_size=20), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_events_do_not_depend_on_the_cuts(places: list[int], end: bytes) -> None:
    stream = EventStream()
    found = [event for piece in cut(STREAM.replace(b"\n", end), places) for event in stream.feed(piece)]
    assert found + stream.flush() == EVENTS


def test_a_mark_of_byte_order_is_skipped() -> None:
    assert EventStream().feed(b"\xef\xbb\xbfdata: x\n\n") == [b"x"]


def test_an_event_is_whole_only_at_its_empty_line() -> None:
    stream = EventStream()
    assert stream.feed(b"data: a\n") == []
    assert stream.feed(b"\n") == [b"a"]
    assert stream.flush() == []


def test_the_last_event_may_lack_its_empty_line() -> None:
    stream = EventStream()
    assert stream.feed(b"data: [DONE]\n") == []
    assert stream.flush() == [b"[DONE]"]


def test_an_endless_event_is_refused() -> None:
    stream = EventStream()
    piece = b"data: " + b"x" * 1_000_000
    with pytest.raises(ValueError, match=str(MAX_EVENT_BYTES)):
        for _ in range(6):
            stream.feed(piece)
