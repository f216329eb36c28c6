import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest
from tests.bench.stub_server import Script, Stub

from penstock.bench.client import Endpoint
from penstock.bench.processes import Worker, run, shares, together
from penstock.bench.records import Ask, Outcome
from penstock.bench.runner import Progress, RunPlan, RunResult, conversations
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
    assert told[-1].num_ok == 12 and not result.interrupted


def test_a_child_passes_on_what_the_server_says() -> None:
    with pytest.raises(ConfigError, match="no connection"):
        run(RunPlan(Endpoint("http://127.0.0.1:9", "m"), processes=2), some_asks("x"))


def test_a_child_that_dies_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ServerError, match="of 2 client processes died: exit code 1"):
        run(RunPlan(Endpoint("http://127.0.0.1:9", "m"), processes=2), some_asks("x"))


# A child whose result has several megabytes, written while a timer's signals cut its writes short.
LONG = """
import signal, sys
from penstock.bench import worker
from penstock.bench.health import Health, Lag
from penstock.bench.runner import RunResult
lag = Lag(0, 0.0, 0.0, 0.0)
worker.run_here = lambda *_: RunResult((), Health(lag, lag, 0.0), (), {1: "x" * 4_000_000}, 1.0)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
"""
OWN = "worker.main()"
PLAIN = "worker.work(sys.stdin, sys.stdout); signal.setitimer(signal.ITIMER_REAL, 0)"
LAST_WORDS = """
import os, signal, sys
for number in range(50): print("line", number, file=sys.stderr)
sys.stderr.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def result_of(script: str) -> RunResult:
    """What a child gives that runs a script."""
    with Worker(RunPlan(Endpoint("http://h", "m")), [some_asks("x")[:1]], ("-c", script)) as worker:
        return together(RunPlan(Endpoint("http://h", "m")), [worker], None)


def test_a_long_result_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    assert len(result_of(LONG + OWN).texts[1]) == 4_000_000
    with pytest.raises(ServerError, match=r"1 of 1 .* exit code 0; its last line was cut off after"):  # the control
        result_of(LONG + PLAIN)


def test_what_a_child_prints_does_not_come_between(capfd: pytest.CaptureFixture[str]) -> None:
    noisy = LONG.replace("lambda *_: RunResult", "lambda *_: print('{', flush=True) or RunResult")
    assert len(result_of(noisy + OWN).texts[1]) == 4_000_000
    assert capfd.readouterr().err == "{\n"  # and is not lost


def test_a_child_that_was_killed_is_said_with_its_last_lines() -> None:
    with pytest.raises(ServerError) as caught:
        result_of(LAST_WORDS)
    assert str(caught.value).startswith("1 of 1 client processes died: killed by SIGKILL; line 45\n")
    assert str(caught.value).rstrip().endswith("line 49")


def test_the_run_ends_with_the_first_child_that_dies(stub: Stub) -> None:
    plan = RunPlan(Endpoint(stub.url, "m"))
    with ExitStack() as stack:
        going = stack.enter_context(Worker(plan, [[Ask(0, 0.0, Script(first_ms=60_000).prompt, None, 1)]]))
        dies = stack.enter_context(Worker(plan, [some_asks("x")[:1]], ("-c", LAST_WORDS)))
        with pytest.raises(ServerError, match="1 of 2"):
            together(plan, [going, dies], None)


@pytest.mark.parametrize("count", [1, 2])
def test_an_interrupt_ends_a_run_and_keeps_what_was_seen(stub: Stub, count: int) -> None:
    given = [Ask(tag, tag * 0.05, Script(first_ms=20).prompt, None, 1) for tag in range(4000)]
    timer = threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,))  # it is the main thread that is interrupted

    def press(progress: Progress) -> None:
        if progress.num_ok > 4 and timer.ident is None:
            timer.start()

    result = run(RunPlan(Endpoint(stub.url, "m"), processes=count), given, press)
    timer.join()
    assert result.interrupted and 2 <= len(result.seen) < 200
    assert {one.outcome for one in result.seen} <= {Outcome.OK, Outcome.UNFINISHED}
    assert sum(one.outcome is Outcome.OK for one in result.seen) >= len(result.seen) - 8


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
