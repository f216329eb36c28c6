"""Measured against the truth: the scripted server logs when it really sent what, and the client is within 2 ms of it.

Medians are compared, so that a busy machine's hiccups do not decide; what remains is the client's own error. Beside
them stand clients that are wrong in the usual ways, and are caught.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from tests.bench.stub_server import Script, Stub

from penstock.bench.client import Endpoint, Route
from penstock.bench.definitions import Timing, timing_of
from penstock.bench.processes import run
from penstock.bench.records import Ask, Outcome, Seen
from penstock.bench.runner import RunPlan, RunResult

BOUND_S = 0.002
REPEATS = 20
TRIES = 5
SCRIPTS = {
    "plain": Script(first_ms=40, gap_ms=10, chunks=12),
    "late first": Script(first_ms=120, gap_ms=5, chunks=4),
    "an empty chunk first": Script(first_ms=60, gap_ms=10, chunks=6, empty_first=True),
    "four tokens a chunk": Script(first_ms=30, gap_ms=20, chunks=5, per_chunk=4),
    "a silent last token": Script(first_ms=30, gap_ms=20, chunks=5, silent_last=True),
    "cut events": Script(first_ms=30, gap_ms=10, chunks=6, pieces=7, crlf=True),
}


def measure(stub: Stub, scripts: Sequence[Script], every_s: float, **plan: Any) -> tuple[RunResult, dict[int, Any]]:
    """What a run of these scripts saw, and the log of what was really done, both by place."""
    endpoint = Endpoint(stub.url, "m", route=plan.pop("route", Route.COMPLETIONS), stream=plan.pop("stream", True))
    before = len(stub.log())
    closed = plan.get("users") is not None
    asks = [
        Ask(tag, None if closed else tag * every_s, Script(**{**vars_of(script), "tag": tag}).prompt, None, 1)
        for tag, script in enumerate(scripts)
    ]
    result = run(RunPlan(endpoint, warm_connections=8, **plan), asks)
    assert {one.outcome for one in result.seen} == {Outcome.OK}
    return result, {entry["tag"]: entry for entry in stub.log()[before:]}


def vars_of(script: Script) -> dict[str, Any]:
    return {name: getattr(script, name) for name in script.__dataclass_fields__}


def error(pairs: Sequence[tuple[float | None, float]]) -> float:
    """Median of measured - true."""
    return statistics.median(measured - true for measured, true in pairs)  # type: ignore[operator]


def errors(seen: Sequence[Seen], log: dict[int, Any], scripts: Sequence[Script]) -> dict[str, float]:
    """The median error of each metric, in seconds."""
    timings = [(timing_of(one), log[one.id]["sent"], log[one.id]["received"], scripts[one.id]) for one in seen]
    shown = [(timing, sent[: script.chunks], sent, got, script) for timing, sent, got, script in timings]
    return {
        "ttft": error([(timing.ttft_sent_s, texts[0] - got) for timing, texts, _, got, _ in shown]),
        "e2e": error([(timing.e2e_sent_s, sent[-1] - got) for timing, _, sent, got, _ in shown]),
        "itl": error([(t.itl_s, (texts[-1] - texts[0]) / (len(texts) - 1)) for t, texts, _, _, _ in shown]),
        "stall": error([(t.stall_s, float(max(np.diff(texts)))) for t, texts, _, _, _ in shown]),
        "tpot": error([(t.tpot_s, (sent[-1] - sent[0]) / (s.tokens - 1)) for t, _, sent, _, s in shown]),
    }


def best(attempt: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The attempt with the smallest largest error, of as many as it takes to get below the bound."""
    found: list[dict[str, float]] = []
    for _ in range(TRIES):
        found.append(attempt())
        if max(map(abs, found[-1].values())) < BOUND_S:
            break
    return min(found, key=lambda one: max(map(abs, one.values())))


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("route", list(Route))
def test_streamed_answers_are_within_two_milliseconds(stub: Stub, name: str, route: Route) -> None:
    scripts = [SCRIPTS[name]] * REPEATS

    def attempt() -> dict[str, float]:
        result, log = measure(stub, scripts, 0.03, route=route)
        return errors(result.seen, log, scripts)

    found = best(attempt)
    assert max(map(abs, found.values())) < BOUND_S, found


def test_whole_answers_are_within_two_milliseconds(stub: Stub) -> None:
    scripts = [Script(first_ms=30, gap_ms=10, chunks=5)] * REPEATS

    def attempt() -> dict[str, float]:
        result, log = measure(stub, scripts, 0.03, stream=False)
        ends = [(timing_of(one).e2e_sent_s, log[one.id]["sent"][0] - log[one.id]["received"]) for one in result.seen]
        return {"e2e": error(ends)}

    found = best(attempt)
    assert abs(found["e2e"]) < BOUND_S, found


def test_the_script_is_the_truth(stub: Stub) -> None:
    """The log could only be wrong together with the script: its times are the scripted ones."""
    script = SCRIPTS["plain"]
    scripts = [script] * REPEATS

    def attempt() -> dict[str, float]:
        _, log = measure(stub, scripts, 0.06)
        first = [(entry["sent"][0] - entry["received"], script.first_ms / 1e3) for entry in log.values()]
        last = [(entry["sent"][-1] - entry["received"], 0.150) for entry in log.values()]
        return {"first": error(first), "last": error(last)}

    found = best(attempt)
    assert max(map(abs, found.values())) < BOUND_S, found


def test_the_usual_wrong_definitions_are_caught(stub: Stub) -> None:
    """Controls: the first chunk whether empty or not, tokens by chunks, and TPOT with the first token in it."""
    scripts = [SCRIPTS["an empty chunk first"], SCRIPTS["four tokens a chunk"]]
    result, log = measure(stub, scripts, 0.1)
    empty, merged = result.seen
    truth = log[0]["sent"][0] - log[0]["received"]
    assert empty.headers_s is not None and empty.sent_s is not None
    assert truth - (empty.headers_s - empty.sent_s) > 10 * BOUND_S
    timing: Timing = timing_of(merged)
    true_tpot = (log[1]["sent"][-1] - log[1]["sent"][0]) / (scripts[1].tokens - 1)
    assert timing.itl_s is not None and timing.e2e_sent_s is not None
    assert timing.itl_s - true_tpot > 5 * BOUND_S  # chunks taken for tokens
    assert timing.e2e_sent_s / scripts[1].tokens - true_tpot > 0.5 * BOUND_S  # the first token in it


def quantile(values: Sequence[float | None], share: float) -> float:
    return float(np.quantile(np.asarray(values, np.float64), share))


def test_coordinated_omission(stub: Stub) -> None:
    """One at a time, 4 ms each, one that takes 500 ms: who arrives meanwhile waits, whether the client asks or not."""
    scripts = [Script(first_ms=500 if tag == 20 else 4, alone=True) for tag in range(100)]
    every_s = 0.01
    free = 0.0
    true = []  # of a queue with these services (Lindley's recursion)
    for tag, script in enumerate(scripts):
        free = max(free, tag * every_s) + script.first_ms / 1e3
        true.append(free - tag * every_s)
    fair, log = measure(stub, scripts, every_s)
    intended = [timing_of(one).e2e_s for one in fair.seen]
    logged = [(one.e2e_sent_s, log[one.id]["sent"][-1] - log[one.id]["received"]) for one in map(timing_of, fair.seen)]
    assert abs(error(logged)) < 2 * BOUND_S
    assert quantile(intended, 0.7) >= 0.9 * quantile(true, 0.7) > 0.1

    naive, _ = measure(stub, scripts, every_s, users=1)  # asks again when the answer has come
    assert quantile([timing_of(one).e2e_s for one in naive.seen], 0.9) < 0.25 * quantile(true, 0.7)

    held, _ = measure(stub, scripts, every_s, max_in_flight=1)  # clocks that start at the send see as little
    assert quantile([timing_of(one).e2e_sent_s for one in held.seen], 0.9) < 0.25 * quantile(true, 0.7)
    assert quantile([timing_of(one).e2e_s for one in held.seen], 0.7) >= 0.9 * quantile(true, 0.7)
    assert held.health.num_held > 30
