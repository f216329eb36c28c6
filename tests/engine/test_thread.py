import asyncio
import threading

import pytest

from penstock.core import Draining, EngineUnavailable, FinishReason
from penstock.engine import EngineThread, WallClock


@pytest.fixture
def make_thread(make_rig):
    threads = []

    def make(**choices):
        rig = make_rig(**choices)
        rig.backend.clock = None
        client = EngineThread(rig.engine, WallClock())
        threads.append(client)
        return rig, client

    yield make
    for client in threads:
        client.close()


def test_asyncio_readers_get_the_oracles_tokens(make_thread, make_request, oracle):
    rig, client = make_thread()

    async def one(request):
        tokens = []
        async for events in client.submit(request):
            for event in events:
                assert event.error is None
                tokens.extend(event.tokens)
        return tokens

    async def main():
        requests = [make_request([index % 26, 3, 5], max_tokens=1 + index % 17) for index in range(100)]
        return requests, await asyncio.gather(*(one(request) for request in requests))

    requests, outputs = asyncio.run(main())
    for request, tokens in zip(requests, outputs, strict=True):
        assert tokens == oracle(request)
    assert client.snapshot().num_finished == 100
    rig.kv.check()


def test_blocking_readers_and_cancels_under_stress(make_thread, make_request, oracle):
    rig, client = make_thread(pages=40, max_step_tokens=16)
    failures = []

    def worker(base: int) -> None:
        for index in range(30):
            request = make_request([base, index % 26, 4, 4], id=f"w{base}-{index}", max_tokens=2 + index % 9, seed=base)
            stream = client.submit(request)
            tokens = []
            for events in stream:
                tokens.extend(token for event in events for token in event.tokens)
                reasons = [event.finish.reason for event in events if event.finish]
                if index % 3 == 0:
                    client.cancel(request.id)
            whole = oracle(request)
            if tokens != whole[: len(tokens)] or (reasons == [FinishReason.LENGTH] and tokens != whole):
                failures.append((request.id, tokens, whole))
            if index % 3 and len(tokens) != len(whole):
                failures.append((request.id, "short"))

    workers = [threading.Thread(target=worker, args=(base,)) for base in range(8)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join(60)
    assert not failures and not any(thread.is_alive() for thread in workers)
    client.close(5.0)
    snapshot = client.snapshot()
    assert snapshot.num_finished + snapshot.num_cancelled == 240
    assert snapshot.pages_held == 0
    rig.kv.check()


def test_snapshot_shows_a_step_that_hangs(make_thread, make_request):
    rig, client = make_thread()
    rig.backend.gate.clear()
    stream = client.submit(make_request(max_tokens=2))
    tick = threading.Event()
    for _ in range(500):
        if client.snapshot().num_running:
            break
        tick.wait(0.01)
    first = client.snapshot()
    assert first.num_running == 1
    tick.wait(0.2)
    assert client.snapshot().last_progress_s == first.last_progress_s < client.clock.now() - 0.15
    rig.backend.gate.set()
    assert [event.finish.reason for events in stream for event in events if event.finish] == [FinishReason.LENGTH]


def test_it_parks_when_there_is_nothing_to_do(make_thread, make_request):
    rig, client = make_thread()
    list(client.submit(make_request()))
    tick = threading.Event()
    tick.wait(0.1)
    calls = []
    original = rig.engine.step
    rig.engine.step = lambda clock: calls.append(1) or original(clock)
    tick.wait(0.3)
    assert len(calls) <= 1
    list(client.submit(make_request()))
    assert calls


class LateEvent(threading.Event):
    """An event whose `clear` is slow: it comes after the `set` of a thread that is let in on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()

    def clear(self) -> None:
        self.entered.set()
        self.wait(5.0)
        super().clear()


def test_close_is_seen_wherever_the_thread_is(make_thread, monkeypatch, caplog):
    monkeypatch.setattr("penstock.engine.thread.LAST_STEP_S", 1.0)
    rig, client = make_thread()
    wake, client._work = client._work, LateEvent()
    wake.set()
    assert client._work.entered.wait(5.0)
    client.close()
    assert rig.backend.closed and not caplog.records


def test_close_lets_what_runs_finish_within_the_grace(make_thread, make_request, oracle):
    rig, client = make_thread()
    stream = client.submit(make_request(max_tokens=50))
    client.close(30.0)
    events = stream.take()
    assert events[-1].finish.reason is FinishReason.LENGTH and list(events[-1].tokens) == oracle(stream.request)
    with pytest.raises(Draining):
        client.submit(make_request())
    assert rig.backend.closed
    client.close()


def test_close_without_grace_ends_the_rest_with_an_error(make_thread, make_request):
    rig, client = make_thread()
    rig.backend.gate.clear()
    streams = [client.submit(make_request(max_tokens=100)) for _ in range(5)]
    threading.Timer(0.2, rig.backend.gate.set).start()
    client.close()
    for stream in streams:
        assert isinstance(stream.take()[-1].error, Draining)


def test_drain_refuses_and_goes_on(make_thread, make_request, oracle):
    _, client = make_thread()
    stream = client.submit(make_request(max_tokens=50))
    client.drain()
    with pytest.raises(Draining):
        client.submit(make_request())
    assert [token for events in stream for event in events for token in event.tokens] == oracle(stream.request)
    assert client.snapshot().draining


def test_a_dead_backend_wakes_every_reader(make_thread, make_request):
    rig, client = make_thread()
    rig.backend.dies_at = 3
    errors = [event.error for events in client.submit(make_request(max_tokens=50)) for event in events if event.error]
    assert isinstance(errors[0], EngineUnavailable)
    assert client.snapshot().dead
    with pytest.raises(EngineUnavailable):
        client.submit(make_request())


class Interruptible(threading.Event):
    """A step that runs until the backend is closed."""

    def give_up(self) -> None:
        self.given_up = True
        self.set()

    def wait(self, timeout=None) -> bool:
        super().wait(timeout)
        if getattr(self, "given_up", False):
            raise EngineUnavailable("The backend was closed while a step ran.")
        return True


def test_close_gives_up_a_long_step(make_thread, make_request, monkeypatch, caplog):
    monkeypatch.setattr("penstock.engine.thread.PATIENCE_S", 0.05)
    rig, client = make_thread()
    rig.backend.gate = Interruptible()
    rig.backend.close = rig.backend.gate.give_up
    stream = client.submit(make_request(max_tokens=100))
    assert wait_until(lambda: client.snapshot().num_running)
    before = client.clock.now()
    client.close()
    assert client.clock.now() - before < 5.0 and not client._thread.is_alive()
    assert isinstance(stream.take()[-1].error, Draining)
    assert not caplog.records, "a step that was given up is no internal error"
    with pytest.raises(Draining):
        client.submit(make_request())


def test_a_step_that_nothing_ends_is_left_to_itself(make_thread, make_request, monkeypatch, caplog):
    """The control: a backend that does not hear of its closing holds close up for the whole time."""
    monkeypatch.setattr("penstock.engine.thread.PATIENCE_S", 0.05)
    monkeypatch.setattr("penstock.engine.thread.LAST_STEP_S", 0.2)
    rig, client = make_thread()
    rig.backend.gate.clear()
    stream = client.submit(make_request(max_tokens=100))
    assert wait_until(lambda: client.snapshot().num_running)
    client.close()
    assert client._thread.is_alive() and "did not end" in caplog.text
    assert isinstance(stream.take()[-1].error, Draining)
    rig.backend.gate.set()
    client._thread.join(10.0)
    assert not client._thread.is_alive()


def wait_until(true) -> bool:
    tick = threading.Event()
    return any(true() or tick.wait(0.01) for _ in range(500))


def test_garbage_is_collected_in_a_pause_and_not_again(make_thread, make_request, monkeypatch):
    monkeypatch.setattr("penstock.engine.thread.PAUSE_S", 0.05)
    _, client = make_thread()
    list(client.submit(make_request()))
    collections = []
    monkeypatch.setattr("penstock.engine.garbage.gc.collect", lambda: collections.append(1))
    assert wait_until(lambda: collections)
    threading.Event().wait(0.2)
    assert len(collections) == 1
    list(client.submit(make_request()))
    assert wait_until(lambda: len(collections) == 2)
