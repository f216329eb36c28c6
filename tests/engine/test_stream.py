import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core import (
    Event,
    Finish,
    FinishReason,
    Request,
    SamplingParams,
    ServerError,
    Timing,
    TokenLogprobs,
    Usage,
)
from penstock.core.limits import MAX_STREAM_BUFFER_BYTES, MAX_STREAM_STALL_S
from penstock.engine import EventStream
from penstock.engine.stream import event_bytes, merge, wake


def opened(n: int = 1) -> EventStream:
    return EventStream(Request("r", (1,), SamplingParams(n=n)))


def finish() -> Finish:
    return Finish(FinishReason.STOP, None, Usage(1, 1, 0), Timing(0.0, 0.0, 0.0, 0.0, 0))


def put(stream: EventStream, event: Event, now: float = 0.0) -> None:
    waiter = stream.put(event, now)
    if waiter is not None:
        wake([waiter])


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=5), st.booleans()), max_size=40))
def test_what_is_read_is_what_was_put_whenever_it_is_read(script):
    stream = opened(3)
    wanted = {0: ("", ()), 1: ("", ()), 2: ("", ())}
    got = {0: ("", ()), 1: ("", ()), 2: ("", ())}

    def read() -> None:
        seen = set()
        for event in stream.take():
            assert event.sample not in seen, "one slot a sample"
            seen.add(event.sample)
            text, tokens = got[event.sample]
            got[event.sample] = (text + event.text, tokens + event.tokens)

    for index, (sample, text, reads) in enumerate(script):
        put(stream, Event(sample, (index,), text))
        wanted[sample] = (wanted[sample][0] + text, (*wanted[sample][1], index))
        if reads:
            read()
    read()
    assert got == wanted
    assert stream.take() == ()


def test_merge_keeps_logprobs_finish_and_error():
    first = Event(0, (1,), "a", (TokenLogprobs(1, -1.0, 1, ()),), (None,))
    second = Event(0, (2,), "b", (TokenLogprobs(2, -2.0, 1, ()),), None, finish(), ServerError("x"))
    both = merge(first, second)
    assert both.tokens == (1, 2) and both.text == "ab" and both.prompt_logprobs == (None,)
    assert [entry.token for entry in both.logprobs] == [1, 2]
    assert both.finish is second.finish and both.error is second.error


def test_ends_after_the_last_sample_and_drops_what_comes_later():
    stream = opened(2)
    put(stream, Event(0, (1,), "a", finish=finish()))
    assert not stream.ended
    put(stream, Event(1, (1,), "b", finish=finish()))
    assert stream.ended
    put(stream, Event(0, (9,), "late"))
    assert [batch for batch in stream] == [(Event(0, (1,), "a", finish=finish()), Event(1, (1,), "b", finish=finish()))]


def test_an_error_ends_every_sample():
    stream = opened(2)
    put(stream, Event(0, (), "", error=ServerError("x")))
    put(stream, Event(1, (1,), "late"))
    assert len(list(stream)) == 1


def test_bound_in_bytes_and_in_time():
    stream = opened()
    put(stream, Event(0, (1,), "a"), now=5.0)
    assert stream.overdue(5.0 + MAX_STREAM_STALL_S) is None
    assert "limit" in stream.overdue(5.1 + MAX_STREAM_STALL_S)
    stream.take()
    assert stream.overdue(1e9) is None
    put(stream, Event(0, (), "x" * MAX_STREAM_BUFFER_BYTES), now=0.0)
    assert stream.overdue(0.0) is None
    put(stream, Event(0, (), "x"), now=0.0)
    assert str(MAX_STREAM_BUFFER_BYTES) in stream.overdue(0.0)


def test_bytes_count_utf8_tokens_and_logprobs():
    assert event_bytes(Event(0, (1, 2), "é")) == 18
    assert event_bytes(Event(0, (1,), "", (TokenLogprobs(1, 0.0, 1, ((1, 0.0), (2, 0.0))),))) == 8 + 48


def test_blocking_reader_in_another_thread():
    stream, got = opened(), []
    reader = threading.Thread(target=lambda: got.extend(event for batch in stream for event in batch))
    reader.start()
    for index in range(50):
        put(stream, Event(0, (index,), "a"))
    put(stream, Event(0, (), "", finish=finish()))
    reader.join(10)
    assert not reader.is_alive()
    assert [token for event in got for token in event.tokens] == list(range(50))


def test_async_readers_are_woken_with_one_call_a_loop():
    async def read(stream: EventStream) -> int:
        return sum(len(event.tokens) for batch in [b async for b in stream] for event in batch)

    async def main() -> tuple[list[int], int]:
        loop = asyncio.get_running_loop()
        calls = 0
        original = loop.call_soon_threadsafe

        def counted(*args, **kwargs):
            nonlocal calls
            calls += 1
            return original(*args, **kwargs)

        streams = [opened() for _ in range(16)]
        tasks = [asyncio.create_task(read(stream)) for stream in streams]
        await asyncio.sleep(0)
        loop.call_soon_threadsafe = counted
        for done in (None, finish()):
            waiters = [stream.put(Event(0, (1,), "a", finish=done), 0.0) for stream in streams]
            assert all(waiter is not None for waiter in waiters)
            wake(waiters)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return await asyncio.gather(*tasks), calls

    totals, calls = asyncio.run(main())
    assert totals == [2] * 16
    assert calls == 2


def test_a_closed_loop_is_skipped():
    stream = opened()

    async def start() -> None:
        task = asyncio.create_task(anext(aiter(stream)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(start())
    put(stream, Event(0, (1,), "a"))
    assert stream.take() == (Event(0, (1,), "a"),)
