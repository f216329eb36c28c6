from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.core import (
    ConfigError,
    Conflict,
    DeadlineExceeded,
    Draining,
    EngineUnavailable,
    FinishReason,
    InvalidLogits,
    InvalidRequest,
    Overloaded,
    QueueFull,
    ServerError,
)
from penstock.core.limits import MAX_STREAM_STALL_S


def all_free(rig) -> None:
    rig.kv.check()
    snapshot = rig.engine.snapshot
    assert snapshot.pages_held == 0
    assert snapshot.pages_free + snapshot.pages_cached == snapshot.pages_total
    assert snapshot.num_running == snapshot.num_waiting == 0
    assert rig.engine.idle


def test_one_request_gives_the_oracles_tokens(make_rig, make_request, oracle, collect):
    rig = make_rig()
    request = make_request(prompt=range(20), max_tokens=10)
    stream = rig.engine.submit(request, 0.0)
    rig.run()
    found = collect(stream)
    assert found["tokens"][0] == oracle(request)
    assert found["text"][0] == "".join(chr(97 + token) for token in oracle(request))
    finish = found["finish"][0]
    assert finish.reason is FinishReason.LENGTH and finish.stop is None
    assert finish.usage == (20, 10, 0)
    assert 0.0 <= finish.timing.scheduled_s < finish.timing.first_token_s < finish.timing.finished_s
    all_free(rig)


@pytest.mark.parametrize("depth", [1, 2])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_tokens_depend_on_the_request_alone(make_rig, make_request, oracle, collect, depth, data):
    """Random arrivals, chunk sizes, shared prefixes and page pressure; every output equals the lone run's."""
    rig = make_rig(
        pages=data.draw(st.integers(12, 40)),
        max_step_tokens=data.draw(st.integers(2, 40)),
        max_running=data.draw(st.integers(1, 8)),
        max_model_tokens=48,
        prefix_cache=data.draw(st.booleans()),
        depth=depth,
    )
    shared = list(range(16))
    streams = []
    for _ in range(data.draw(st.integers(1, 8))):
        keep = data.draw(st.integers(0, 16))
        prompt = shared[:keep] + data.draw(st.lists(st.integers(0, 25), min_size=1, max_size=12))
        request = make_request(prompt, max_tokens=data.draw(st.integers(1, 20)), n=data.draw(st.integers(1, 2)))
        streams.append(rig.engine.submit(request, rig.clock.now()))
        for _ in range(data.draw(st.integers(0, 6))):
            rig.engine.step(rig.clock)
    rig.run()
    for stream in streams:
        found = collect(stream)
        assert found["error"] is None
        for sample in range(stream.request.sampling.n):
            assert found["tokens"][sample] == oracle(stream.request, sample)
    all_free(rig)


def test_the_oracle_notices_one_wrong_page(make_rig, make_request, oracle, collect):
    rig = make_rig()
    request = make_request(prompt=range(20), max_tokens=10)
    stream = rig.engine.submit(request, 0.0)
    for _ in range(4):
        rig.engine.step(rig.clock)
    for place in rig.backend.memory:
        rig.backend.memory[place] += 1
    rig.run()
    assert collect(stream)["tokens"][0] != oracle(request)


def stop_case(oracle, request, width: int = 2) -> tuple[str, int]:
    """A stop string from the middle of what the request would say, and the token count at which it is complete."""
    text = "".join(chr(97 + token) for token in oracle(request))
    stop = text[4 : 4 + width]
    return stop, text.index(stop) + width


@pytest.mark.parametrize("depth", [1, 2])
def test_a_stop_string_ends_the_sample_late_and_the_surplus_is_not_counted(
    make_rig, make_request, oracle, collect, depth
):
    rig = make_rig(depth=depth)
    request = make_request(prompt=range(9), max_tokens=20)
    stop, count = stop_case(oracle, request)
    request = replace(request, sampling=replace(request.sampling, stop=(stop,)))
    stream = rig.engine.submit(request, 0.0)
    rig.run()
    found = collect(stream)
    assert found["finish"][0].reason is FinishReason.STOP
    assert found["finish"][0].stop == stop
    assert found["finish"][0].usage.completion_tokens == count == len(found["tokens"][0])
    text = "".join(chr(97 + token) for token in oracle(request))
    assert found["text"][0] == text[: text.index(stop)]
    assert rig.backend.num_tokens > 9 + count - 1, "at least one surplus token was computed"
    all_free(rig)


def test_stop_string_kept_and_min_tokens(make_rig, make_request, oracle, collect):
    rig = make_rig()
    request = make_request(prompt=range(9), max_tokens=20)
    stop, count = stop_case(oracle, request)
    kept = replace(request, id="kept", sampling=replace(request.sampling, stop=(stop,), include_stop=True))
    late = replace(request, id="late", sampling=replace(request.sampling, stop=(stop,), min_tokens=count + 3))
    streams = [rig.engine.submit(one, 0.0) for one in (kept, late)]
    rig.run()
    text = "".join(chr(97 + token) for token in oracle(request))
    assert collect(streams[0])["text"][0] == text[:count]
    assert len(collect(streams[1])["tokens"][0]) > count + 3


def test_a_stop_token_is_counted_and_not_shown(make_rig, make_request, oracle, collect):
    rig = make_rig()
    request = make_request(prompt=range(9), max_tokens=20)
    token = oracle(request)[5]
    first = oracle(request).index(token)
    request = replace(request, sampling=replace(request.sampling, stop_token_ids=(token,)))
    shown = replace(request, id="shown", sampling=replace(request.sampling, include_stop=True))
    hidden_stream, shown_stream = rig.engine.submit(request, 0.0), rig.engine.submit(shown, 0.0)
    rig.run()
    found = collect(hidden_stream)
    assert found["finish"][0].reason is FinishReason.STOP and found["finish"][0].stop == token
    assert len(found["tokens"][0]) == first + 1 == found["finish"][0].usage.completion_tokens
    assert len(found["text"][0]) == first
    assert len(collect(shown_stream)["text"][0]) == first + 1


def test_samples_end_one_by_one(make_rig, make_request, oracle, collect):
    rig = make_rig()
    request = make_request(prompt=range(11), max_tokens=12, n=4)
    stream = rig.engine.submit(request, 0.0)
    rig.run()
    found = collect(stream)
    assert sorted(found["finish"]) == [0, 1, 2, 3]
    for sample in range(4):
        assert found["tokens"][sample] == oracle(request, sample)
    assert found["tokens"][0] != found["tokens"][1]
    assert rig.engine.snapshot.num_finished == 1
    all_free(rig)


@pytest.mark.parametrize("length", [1, 2, 30])
def test_prompt_logprobs_come_once_and_whole(make_rig, make_request, collect, length):
    rig = make_rig(max_step_tokens=7)
    prompt = [index % 26 for index in range(length)]
    streams = [rig.engine.submit(make_request(prompt, prompt_logprobs=1, n=2, max_tokens=3), 0.0) for _ in range(2)]
    events = []
    for _ in range(60):
        rig.engine.step(rig.clock)
        events.extend(event for stream in streams for event in stream.take())
    carriers = [event for event in events if event.prompt_logprobs is not None]
    assert len(carriers) == 2 and {event.sample for event in carriers} == {0}
    for event in carriers:
        assert event.prompt_logprobs[0] is None
        assert [entry.token for entry in event.prompt_logprobs[1:]] == prompt[1:]


def test_one_bad_row_fails_alone(make_rig, make_request, oracle, collect):
    rig = make_rig()
    requests = [make_request(prompt=range(index, 14), max_tokens=6) for index in range(4)]
    rig.backend.bad_seeds.add(requests[2].sampling.seed)
    streams = [rig.engine.submit(request, 0.0) for request in requests]
    rig.run()
    for index, stream in enumerate(streams):
        found = collect(stream)
        if index == 2:
            assert isinstance(found["error"], InvalidLogits) and not found["tokens"].get(0)
        else:
            assert found["error"] is None and found["tokens"][0] == oracle(requests[index])
    assert rig.engine.snapshot.num_errors == 1
    all_free(rig)


class Poisoned:
    """Text that fails on one letter."""

    def stream(self, skip_special_tokens, after=None):
        return self

    def push(self, tokens):
        if 7 in tokens:
            raise UnicodeDecodeError("x", b"", 0, 1, "bad")
        return ""

    def flush(self):
        return ""


def test_text_that_fails_fails_one_request(make_rig, make_request, oracle, collect):
    rig = make_rig(text=Poisoned())
    requests = [make_request(prompt=range(index, 14), max_tokens=6) for index in range(8)]
    streams = [rig.engine.submit(request, 0.0) for request in requests]
    rig.run()
    failed = 0
    for request, stream in zip(requests, streams, strict=True):
        found = collect(stream)
        if 7 in oracle(request):
            failed += 1
            assert isinstance(found["error"], ServerError) and "UnicodeDecodeError" not in str(found["error"])
        else:
            assert found["tokens"][0] == oracle(request)
    assert 0 < failed < 8
    all_free(rig)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(after=st.integers(0, 30), depth=st.sampled_from([1, 2]), n=st.integers(1, 3))
def test_cancel_at_any_point_frees_everything_and_disturbs_nobody(
    make_rig, make_request, oracle, collect, after, depth, n
):
    rig = make_rig(max_step_tokens=8, depth=depth)
    doomed = rig.engine.submit(make_request(prompt=range(20), max_tokens=12, n=n), 0.0)
    mate = rig.engine.submit(make_request(prompt=range(13), max_tokens=15), 0.0)
    for _ in range(after):
        rig.engine.step(rig.clock)
    rig.engine.cancel(doomed.request.id)
    rig.engine.cancel("nobody")
    rig.engine.step(rig.clock)
    assert doomed.ended, "within one step"
    rig.run()
    assert collect(mate)["tokens"][0] == oracle(mate.request)
    reasons = {finish.reason for finish in collect(doomed)["finish"].values()}
    assert reasons <= {FinishReason.CANCELLED, FinishReason.LENGTH}
    assert after > 5 or reasons == {FinishReason.CANCELLED}
    assert rig.engine.snapshot.num_finished + rig.engine.snapshot.num_cancelled == 2
    all_free(rig)


def test_the_door_refuses(make_rig, make_request):
    rig = make_rig(max_waiting=2)
    with pytest.raises(InvalidRequest):
        rig.engine.submit(make_request(temperature=-1.0), 0.0)
    with pytest.raises(InvalidRequest):
        rig.engine.submit(make_request(prompt=()), 0.0)
    with pytest.raises(InvalidRequest):
        rig.engine.submit(make_request(prompt=(99,)), 0.0)
    with pytest.raises(InvalidRequest, match="128"):
        rig.engine.submit(make_request(prompt=[1] * 129), 0.0)
    with pytest.raises(DeadlineExceeded):
        rig.engine.submit(make_request(deadline_s=1.0), 2.0)
    rig.engine.submit(make_request(id="a"), 0.0)
    with pytest.raises(Conflict):
        rig.engine.submit(make_request(id="a"), 0.0)
    rig.engine.submit(make_request(id="b"), 0.0)
    with pytest.raises(QueueFull) as full:
        rig.engine.submit(make_request(id="c"), 0.0)
    assert full.value.retry_after_s > 0
    rig.run()
    rig.engine.submit(make_request(id="c"), 0.0)
    rig.engine.drain()
    with pytest.raises(Draining):
        rig.engine.submit(make_request(), 0.0)
    rig.run()
    assert rig.engine.snapshot.num_finished == 3 and rig.engine.snapshot.draining


def test_a_missing_seed_is_drawn_once_and_told(make_rig, make_request):
    rig = make_rig()
    assert rig.engine.submit(make_request(seed=None), 0.0).request.sampling.seed == 12345
    assert rig.engine.submit(make_request(seed=7), 0.0).request.sampling.seed == 7


def test_a_deadline_ends_a_queued_and_a_running_request(make_rig, make_request, collect):
    rig = make_rig(max_running=1)
    running = rig.engine.submit(make_request(max_tokens=100, deadline_s=0.02), 0.0)
    queued = rig.engine.submit(make_request(prompt=range(20), deadline_s=0.01), 0.0)
    rig.run()
    assert isinstance(collect(running)["error"], DeadlineExceeded)
    found = collect(queued)
    assert isinstance(found["error"], DeadlineExceeded) and not found["tokens"][0]
    all_free(rig)


def test_a_reader_that_reads_nothing_is_ended_and_the_others_go_on(make_rig, make_request, oracle, collect):
    rig = make_rig()
    slow = rig.engine.submit(make_request(max_tokens=100), 0.0)
    quick = rig.engine.submit(make_request(prompt=(4, 5), max_tokens=60), 0.0)
    got = []
    for _ in range(50):
        rig.engine.step(rig.clock)
        got.extend(quick.take())
    rig.clock.advance_to(rig.clock.now() + MAX_STREAM_STALL_S + 1.0)
    while rig.engine.step(rig.clock):
        got.extend(quick.take())
    got.extend(quick.take())
    assert [token for event in got for token in event.tokens] == oracle(quick.request)
    found = collect(slow)
    assert isinstance(found["error"], Overloaded) and found["error"].code == "slow_reader"
    assert found["tokens"][0] == oracle(slow.request)[: len(found["tokens"][0])], "what was kept is right"
    all_free(rig)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_lost_backend_ends_everything_with_an_error(make_rig, make_request, collect, depth):
    rig = make_rig(depth=depth)
    streams = [rig.engine.submit(make_request(prompt=range(index + 3), max_tokens=50), 0.0) for index in range(5)]
    rig.backend.dies_at = 12
    rig.run()
    for stream in streams:
        assert stream.ended
        found = collect(stream)
        assert isinstance(found["error"], EngineUnavailable) and "device" not in str(found["error"])
    assert rig.engine.snapshot.dead and rig.engine.idle
    with pytest.raises(EngineUnavailable):
        rig.engine.submit(make_request(), 0.0)
    assert not rig.engine.step(rig.clock)


def test_progress_follows_steps(make_rig, make_request):
    rig = make_rig()
    rig.clock.advance_to(100.0)
    rig.engine.step(rig.clock)
    assert rig.engine.snapshot.last_progress_s == 100.0
    rig.clock.advance_to(200.0)
    rig.engine.submit(make_request(), 200.0)
    assert rig.engine.snapshot.num_waiting == 1, "what is in the inbox shows"
    rig.engine.step(rig.clock)
    first = rig.engine.snapshot
    assert first.steps == 0 and first.last_progress_s == 200.0 and first.num_running == 1
    committed_s = rig.clock.now()
    rig.clock.advance_to(300.0)
    rig.engine.step(rig.clock)
    assert rig.engine.snapshot.steps == 1 and rig.engine.snapshot.last_progress_s == committed_s < 300.0


def test_a_thousand_short_requests(make_rig, make_request, oracle, collect):
    rig = make_rig(pages=80, max_step_tokens=128)
    streams = []
    for index in range(1000):
        prompt = [(index * 7 + offset) % 26 for offset in range(1 + index % 9)]
        streams.append(rig.engine.submit(make_request(prompt, max_tokens=1 + index % 5), rig.clock.now()))
        if index % 3 == 0:
            rig.engine.step(rig.clock)
    rig.run()
    for stream in streams:
        assert collect(stream)["tokens"][0] == oracle(stream.request)
    assert rig.engine.snapshot.num_finished == 1000
    all_free(rig)


def test_a_log_that_cannot_be_written_is_told_at_the_start(make_rig, tmp_path):
    with pytest.raises(ConfigError):
        make_rig(step_log=str(tmp_path / "nowhere" / "log"))


@pytest.mark.parametrize("depth", [1, 2])
def test_preempted_requests_say_the_same_and_the_cost_is_logged(make_rig, make_request, oracle, collect, caplog, depth):
    rig = make_rig(pages=14, max_model_tokens=40, depth=depth)
    with caplog.at_level("INFO", logger="penstock.engine"):
        # Short outputs first: they teach the predictor to admit more than fits.
        for index in range(12):
            rig.engine.submit(make_request(prompt=(index, 1), max_tokens=1), 0.0)
        rig.run()
        streams = [rig.engine.submit(make_request(prompt=(index, 2, 3), max_tokens=30), 0.0) for index in range(6)]
        rig.run()
    for stream in streams:
        found = collect(stream)
        assert found["tokens"][0] == oracle(stream.request)
        assert found["finish"][0].timing.num_preemptions <= 2
    assert rig.engine.snapshot.num_preemptions > 0
    lines = [record.getMessage() for record in caplog.records if "preempted" in record.getMessage()]
    assert len(lines) == rig.engine.snapshot.num_preemptions and "tokens to compute again" in lines[0]
    all_free(rig)


def test_close_frees_the_backend_even_if_a_step_under_way_fails(make_rig, make_request, caplog):
    rig = make_rig(depth=2)
    rig.engine.submit(make_request(max_tokens=50), 0.0)
    for _ in range(3):
        rig.engine.step(rig.clock)

    def lost(ticket, masks):
        raise RuntimeError("gone")

    rig.backend.finish = lost
    rig.engine.close()
    assert rig.backend.closed and "RuntimeError" in caplog.text
