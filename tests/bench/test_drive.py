from types import SimpleNamespace
from typing import Any

import pytest
from tests.bench.stub_server import Script, Stub

from penstock.bench import Ask, Counted, Endpoint, RunPlan, Target, Window, drive
from penstock.core import ConfigError


class Words:
    """Counts words."""

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(range(len(text.split())))


def target(stub: Stub, warmup_s: float | None = None, **plan: Any) -> Target:
    maker: Any = SimpleNamespace(counter=Words())
    return Target("label", RunPlan(Endpoint(stub.url, "m"), **plan), maker, warmup_s)


def workload(asks: list[Ask], users: int | None = None, shared: bool = False) -> Any:
    return SimpleNamespace(asks=lambda maker: iter(asks), users=users, shared=shared)


def asks(count: int, every_s: float | None, **script: Any) -> list[Ask]:
    arrivals = [None if every_s is None else tag * every_s for tag in range(count)]
    return [Ask(tag, at, Script(tag=tag, **script).prompt, 5, 3) for tag, at in enumerate(arrivals)]


def test_what_the_server_did_not_count_is_counted_here(stub: Stub) -> None:
    run = drive(target(stub), workload(asks(8, 0.05, chunks=3, usage=False)), round=2, rate=20.0)
    assert {(one.output_tokens, one.counted) for one in run.seen} == {(3, Counted.TOKENIZER)}
    assert (run.label, run.round, run.rate, run.users) == ("label", 2, 20.0, None)
    assert all(not hasattr(one, "prompt") for one in run.asked) and [one.id for one in run.asked] == list(range(8))
    served = drive(target(stub), workload(asks(8, 0.05, chunks=3, per_chunk=2)))
    assert {(one.output_tokens, one.counted) for one in served.seen} == {(6, Counted.USAGE)}


def test_a_tenth_of_the_time_is_warm_up(stub: Stub) -> None:
    run = drive(target(stub), workload(asks(11, 0.05)))
    assert run.window.begin_s == pytest.approx(0.05) and run.window.end_s == pytest.approx(0.5)
    assert run.window.end_s > run.seen[-1].intended_s
    assert drive(target(stub, 0.2), workload(asks(11, 0.05))).window.begin_s == 0.2
    assert run.window != Window(0.0, 0.5)


def test_the_workload_says_how_many_users_there_are(stub: Stub) -> None:
    run = drive(target(stub), workload(asks(6, None, first_ms=20, chunks=3), users=2))
    assert run.users == 2 and 1 in {one.number for one in run.pitfalls}
    with pytest.raises(ConfigError, match="an open loop"):
        drive(target(stub), workload(asks(6, None)))


def test_pitfalls_are_recorded(stub: Stub) -> None:
    run = drive(target(stub, 0.0), workload(asks(6, 0.02, chunks=2, prompt_tokens=9)))
    texts = {one.number: one.text for one in run.pitfalls}
    assert "+4 to +4" in texts[6] and "the ramp" in texts[11] and "not as long as asked" in texts[8]
