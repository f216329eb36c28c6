from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.bench.stub_server import Script, Stub

from penstock.bench import (
    Ask,
    Counted,
    Endpoint,
    Record,
    RunPlan,
    Target,
    Window,
    drive,
    read_origin,
    read_record,
    write_record,
)
from penstock.core import ConfigError


class Words:
    """Counts words."""

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(range(len(text.split())))


def target(stub: Stub, warmup_s: float | None = None, **plan: Any) -> Target:
    maker: Any = SimpleNamespace(counter=Words())
    return Target("label", RunPlan(Endpoint(stub.url, "m"), **plan), maker, warmup_s)


def workload(asks: list[Ask], users: int | None = None, shared: bool = False, stop_s: float | None = None) -> Any:
    return SimpleNamespace(asks=lambda maker: iter(asks), users=users, shared=shared, stop_s=stop_s, ends_s=stop_s)


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


def test_a_warm_up_after_which_nothing_arrives_is_refused_before_the_run(stub: Stub) -> None:
    given = workload(asks(3, None), users=1, stop_s=2.0)
    given.asks = lambda maker: pytest.fail("the run began")
    with pytest.raises(ConfigError, match=r"the warm-up is 3 s, and nothing arrives after 2 s"):
        drive(target(stub, 3.0), given)


def test_a_warm_up_longer_than_the_run_leaves_a_record_that_says_so(stub: Stub, tmp_path: Path) -> None:
    run = drive(target(stub, 60.0), workload(asks(6, None, first_ms=5), users=2))
    assert run.window == Window(60.0, 60.0) and len(run.seen) == 6
    assert len(run.invalid) == 1 and run.invalid[0].startswith("the window is empty: the warm-up is 60 s")
    record = Record(kind="serve", title="t", origin=read_origin(), runs=(run,))
    write_record(tmp_path / "r.json", record)
    assert read_record(tmp_path / "r.json").runs[0].invalid == run.invalid
    assert not drive(target(stub, 0.0), workload(asks(6, None, first_ms=5), users=2)).invalid  # the control


def test_a_closed_loop_ends_with_its_time(stub: Stub) -> None:
    run = drive(target(stub), workload(asks(500, None, first_ms=50), users=2, stop_s=0.5))
    assert 2 <= len(run.seen) <= 24 and max(one.intended_s for one in run.seen) < 0.5
