"""Schedules against the scripted server: who is sent when, after whom, and what ends a run."""

import time
from typing import Any

import pytest
from tests.bench.stub_server import Script, Stub

from penstock.bench.client import Endpoint, Route
from penstock.bench.processes import run
from penstock.bench.records import Ask, Outcome, Seen
from penstock.bench.runner import Progress, RunPlan, RunResult, continued, conversations
from penstock.core import ConfigError


def asks(count: int, every_s: float | None, **script: Any) -> list[Ask]:
    return [
        Ask(tag, None if every_s is None else tag * every_s, Script(tag=tag, **script).prompt, None, 1)
        for tag in range(count)
    ]


def go(stub: Stub, given: list[Ask], timeout_s: float = 30.0, **plan: Any) -> RunResult:
    return run(RunPlan(Endpoint(stub.url, "m", timeout_s=timeout_s), **plan), given)


def most_in_flight(seen: tuple[Seen, ...]) -> int:
    edges = sorted([(one.sent_s, 1) for one in seen] + [(one.end_s, -1) for one in seen])  # type: ignore[type-var]
    level = most = 0
    for _, step in edges:
        level += step
        most = max(most, level)
    return most


def test_an_open_loop_waits_for_nobody(stub: Stub) -> None:
    result = go(stub, asks(20, 0.02, first_ms=300))
    assert {one.outcome for one in result.seen} == {Outcome.OK}
    assert [one.intended_s for one in result.seen] == pytest.approx([0.02 * tag for tag in range(20)])
    assert most_in_flight(result.seen) >= 10
    assert all(one.sent_s >= one.intended_s for one in result.seen)  # type: ignore[operator]


def test_a_closed_loop_has_no_more_in_flight_than_users(stub: Stub) -> None:
    result = go(stub, asks(12, None, first_ms=20), users=3)
    assert len(result.seen) == 12 and most_in_flight(result.seen) == 3
    assert result.duration_s >= 4 * 0.02


def test_turns_follow_each_other_after_thinking(stub: Stub) -> None:
    prompt = Script(first_ms=30, gap_ms=10, chunks=3).prompt
    given = [
        Ask(session * 10 + turn, session * 0.01 if not turn else None, prompt, None, 3, True, session, turn, 0.1)
        for turn in (2, 0, 1)
        for session in (0, 1)
    ]
    result = go(stub, given)
    by_id = {one.id: one for one in result.seen}
    assert sorted(by_id) == [0, 1, 2, 10, 11, 12]
    for first in (0, 1, 10, 11):
        assert by_id[first].end_s is not None
        assert by_id[first + 1].intended_s == pytest.approx(by_id[first].end_s + 0.1)
        assert by_id[first + 1].sent_s >= by_id[first + 1].intended_s  # type: ignore[operator]
    assert result.health.num_abandoned == 0


def test_a_later_turn_holds_the_answer_that_came(stub: Stub) -> None:
    def script(tag: int) -> str:
        return Script(chunks=2, tag=tag).prompt

    said = ({"role": "user", "content": script(902)},)
    given = [
        Ask(0, 0.0, script(901), None, 2, session=1),
        Ask(1, None, "made up", None, 2, session=1, turn=1, said=said),
        Ask(2, None, "made up", None, 2, session=1, turn=2, said=({"role": "user", "content": script(903)},)),
    ]
    plan = RunPlan(Endpoint(stub.url, "m", route=Route.CHAT))
    assert {one.outcome for one in run(plan, given).seen} == {Outcome.OK}
    sent = {entry["tag"]: entry["request"].get("messages") for entry in stub.log()}
    answer = {"role": "assistant", "content": "w0 w1 "}
    first = {"role": "user", "content": script(901)}
    assert sent[902] == [first, answer, *said]
    assert sent[903] == [first, answer, *said, answer, {"role": "user", "content": script(903)}]
    assert continued("one ", "two ", "three") == "one two three"


def test_the_drain_begins_with_the_last_send(stub: Stub) -> None:
    turns = [
        Ask(turn, None if turn else 0.0, Script(first_ms=20).prompt, None, 1, session=1, turn=turn, think_s=0.5)
        for turn in range(3)
    ]
    result = go(stub, turns, drain_s=0.3)
    assert [one.outcome for one in result.seen] == [Outcome.OK] * 3 and result.duration_s > 1.0
    held = go(stub, asks(8, 0.0, first_ms=100), max_in_flight=1, drain_s=0.3)
    assert [one.outcome for one in held.seen] == [Outcome.OK] * 8


def test_a_turn_that_has_its_own_arrival_is_not_early(stub: Stub) -> None:
    prompt = Script().prompt
    given = [Ask(0, 0.0, prompt, None, 1, session=5), Ask(1, 0.3, prompt, None, 1, session=5, turn=1)]
    assert go(stub, given).seen[1].intended_s == pytest.approx(0.3)


def test_a_failed_turn_ends_its_conversation(stub: Stub) -> None:
    given = [
        Ask(0, 0.0, Script(status=500).prompt, None, 1, session=1, turn=0),
        Ask(1, None, Script().prompt, None, 1, session=1, turn=1),
        Ask(2, None, Script().prompt, None, 1, session=1, turn=2),
    ]
    result = go(stub, given)
    assert [one.outcome for one in result.seen] == [Outcome.FAILED]
    assert result.health.num_abandoned == 2


def test_nothing_is_sent_after_the_stop(stub: Stub) -> None:
    result = go(stub, asks(50, 0.02, first_ms=10), stop_s=0.3)
    assert 10 <= len(result.seen) <= 15
    assert max(one.intended_s for one in result.seen) < 0.3
    closed = go(stub, asks(50, None, first_ms=50), users=2, stop_s=0.3)
    assert 4 <= len(closed.seen) <= 14 and {one.outcome for one in closed.seen} == {Outcome.OK}


def test_what_does_not_end_in_time_is_unfinished(stub: Stub) -> None:
    result = go(stub, asks(4, 0.01, first_ms=5000), drain_s=0.3)
    assert {one.outcome for one in result.seen} == {Outcome.UNFINISHED}
    assert result.duration_s < 3
    closed = go(stub, asks(4, None, first_ms=5000), users=2, stop_s=0.1, drain_s=0.2)
    assert [one.outcome for one in closed.seen] == [Outcome.UNFINISHED] * 2


def test_time_outs_are_seen(stub: Stub) -> None:
    result = go(stub, asks(2, 0.01, first_ms=5000), timeout_s=0.2)
    assert {one.outcome for one in result.seen} == {Outcome.TIMEOUT}


def test_a_limit_in_flight_is_counted_where_it_bites(stub: Stub) -> None:
    result = go(stub, asks(10, 0.01, first_ms=100), max_in_flight=2)
    assert most_in_flight(result.seen) == 2
    assert result.health.num_held == 8
    assert result.seen[-1].intended_s == pytest.approx(0.09)  # what was intended stays
    assert result.seen[-1].sent_s > 0.3  # type: ignore[operator]
    assert result.health.send_lag.count == 2  # the held ones are not the client's lag
    assert go(stub, asks(10, 0.05), max_in_flight=8).health.num_held == 0


def test_texts_are_kept_when_asked_for(stub: Stub) -> None:
    given = asks(2, 0.0, chunks=3)
    assert go(stub, given, keep_text=True).texts == {0: "w0 w1 w2 ", 1: "w0 w1 w2 "}
    assert go(stub, given).texts == {}


def test_the_wall_clock_does_not_matter(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = iter(range(10**9, 0, -3600))  # goes back an hour at every look
    monkeypatch.setattr(time, "time", lambda: float(next(wall)))
    result = go(stub, asks(5, 0.02, first_ms=20, gap_ms=5, chunks=3))
    for one in result.seen:
        assert one.outcome is Outcome.OK
        assert one.intended_s <= one.sent_s < one.chunks_s[0] <= one.chunks_s[-1] <= one.end_s  # type: ignore[operator]
        assert one.chunks_s == sorted(one.chunks_s)


def test_a_client_that_can_not_keep_up_is_refused(stub: Stub) -> None:
    def hold_up(progress: Progress) -> None:
        time.sleep(0.2)

    plan = RunPlan(Endpoint(stub.url, "m"))
    slow = run(plan, asks(120, 0.01), hold_up)
    assert slow.health.loop_lag.max_s > 0.1 and slow.health.send_lag.max_s > 0.1
    assert len(slow.invalid) == 2 and all("hint" in reason for reason in slow.invalid)


def test_progress_is_told(stub: Stub) -> None:
    told: list[Progress] = []
    run(RunPlan(Endpoint(stub.url, "m")), asks(40, 0.03), told.append)
    assert len(told) >= 2
    assert [one.num_sent for one in told] == sorted(one.num_sent for one in told)
    last = told[-1]
    assert (last.num_asks, last.num_sent, last.num_ended, last.num_ok) == (40, 40, 40, 40)


def test_requests_that_no_route_takes_are_refused(stub: Stub) -> None:
    plan = RunPlan(Endpoint(stub.url, "m", route=Route.CHAT))
    with pytest.raises(ConfigError, match="no token ids"):
        run(plan, [Ask(0, 0.0, (1, 2), None, 1)])
    later = [Ask(0, 0.0, Script().prompt, None, 1, session=1), Ask(1, None, (1, 2), None, 1, session=1, turn=1)]
    with pytest.raises(ConfigError, match="no token ids"):
        run(plan, later)


def test_conversations_are_sorted() -> None:
    given = [
        Ask(0, 3.0, "a", None, 1),
        Ask(1, None, "b", None, 1, session=0, turn=1),
        Ask(2, 1.0, "c", None, 1, session=0, turn=0),
        Ask(3, 2.0, "d", None, 1),
    ]
    assert [[ask.id for ask in group] for group in conversations(given, None)] == [[2, 1], [3], [0]]
    closed = [Ask(1, None, "b", None, 1), Ask(0, None, "a", None, 1)]
    assert [[ask.id for ask in group] for group in conversations(closed, 2)] == [[1], [0]]


def test_conversations_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        conversations([Ask(0, 0.0, "a", None, 1), Ask(0, 1.0, "b", None, 1)], None)
    with pytest.raises(ConfigError, match="no arrival in an open loop"):
        conversations([Ask(0, None, "a", None, 1)], None)
    with pytest.raises(ConfigError, match="an arrival in a closed loop"):
        conversations([Ask(0, 0.0, "a", None, 1)], 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"users": 0},
        {"max_in_flight": 0},
        {"stop_s": -1.0},
        {"drain_s": float("nan")},
        {"processes": 0},
        {"processes": 65},
        {"users": 2, "max_in_flight": 2},
        {"users": 2, "processes": 3},
    ],
)
def test_plans_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="hint"):
        run(RunPlan(Endpoint("http://127.0.0.1:9", "m"), **wrong), asks(1, 0.0))


def test_an_empty_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to send"):
        run(RunPlan(Endpoint("http://127.0.0.1:9", "m")), [])
    with pytest.raises(ConfigError, match="no connection"):
        run(RunPlan(Endpoint("http://127.0.0.1:9", "m")), asks(1, 0.0))
