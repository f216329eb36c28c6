import signal
import subprocess
import time

import pytest
from tests.bench.stub_server import Script, Stub

from penstock.bench import processes
from penstock.bench.client import Endpoint
from penstock.bench.processes import Worker, run, shares
from penstock.bench.records import Ask, Outcome
from penstock.bench.runner import Progress, RunPlan, conversations
from penstock.core import ConfigError, ServerError


def some_asks(prompt: str) -> list[Ask]:
    """Twelve asks: six alone, three sessions of two turns."""
    alone = [Ask(tag, tag * 0.05, prompt, None, 1) for tag in range(6)]
    turns = [Ask(6 + i, None if i % 2 else 0.02 * i, prompt, None, 1, session=i // 2, turn=i % 2) for i in range(6)]
    return alone + turns


def test_every_conversation_is_run_once_and_whole() -> None:
    groups = conversations(some_asks(""), None)
    plan = RunPlan(Endpoint("http://h", "m"), max_in_flight=7, warm_connections=3, processes=2)
    parts = shares(plan, groups)
    assert sorted(map(id, groups)) == sorted(id(group) for _, share in parts for group in share)
    assert [part.max_in_flight for part, _ in parts] == [4, 3]
    assert [(part.processes, part.warm_connections, part.users) for part, _ in parts] == [(1, 2, None)] * 2


def test_two_processes_do_what_one_does(stub: Stub) -> None:
    told: list[Progress] = []
    given = some_asks(Script(first_ms=20, gap_ms=5, chunks=4).prompt)
    result = run(RunPlan(Endpoint(stub.url, "m"), processes=2, keep_text=True), given, told.append)
    assert [one.id for one in result.seen] == list(range(12))
    assert {one.outcome for one in result.seen} == {Outcome.OK}
    assert result.texts == {ask.id: "w0 w1 w2 w3 " for ask in given}
    assert result.health.processes == 2 and result.health.loop_lag.count > 20
    by_id = {one.id: one for one in result.seen}
    assert by_id[5].intended_s == pytest.approx(0.25)
    assert by_id[7].intended_s == pytest.approx(by_id[6].end_s)
    # One clock: requests of both processes were received in the order of their arrivals.
    order = sorted((one.intended_s, one.id) for one in result.seen if one.id < 6)
    assert [one.sent_s for _, id in order if (one := by_id[id])] == sorted(by_id[id].sent_s for _, id in order)  # type: ignore[type-var]
    assert told[-1].num_ok == 12


def test_a_child_passes_on_what_the_server_says() -> None:
    with pytest.raises(ConfigError, match="no connection"):
        run(RunPlan(Endpoint("http://127.0.0.1:9", "m"), processes=2), some_asks("x"))


def test_a_child_that_dies_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.sys, "executable", "/bin/false")
    with pytest.raises(ServerError, match="2 of 2"):
        run(RunPlan(Endpoint("http://127.0.0.1:9", "m"), processes=2), some_asks("x"))


def test_a_child_does_not_outlive_its_parent(stub: Stub) -> None:
    plan = RunPlan(Endpoint(stub.url, "m"))
    with Worker(plan, [[Ask(0, 0.0, Script(first_ms=60_000).prompt, None, 1)]]) as worker:
        worker.ready.wait(30)
        worker.tell({"start_s": time.monotonic()})
        assert worker._process.stdin is not None
        worker._process.send_signal(signal.SIGINT)  # Ctrl-C is the parent's business
        with pytest.raises(subprocess.TimeoutExpired):
            worker._process.wait(0.5)
        worker._process.stdin.close()
        assert worker._process.wait(20) == 1
