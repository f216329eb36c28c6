"""Served rounds: slow servers get fewer, failed ones no more, and ratios are of the same rounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from benchmarks.peers import served, served_results
from benchmarks.peers.child import PeerFailed
from benchmarks.peers.rounds import Pace
from benchmarks.peers.works import SERVED
from tests.benchmarks.test_peers_results import load_run, seen

from penstock.bench import LoadRun, markdown

SERVERS = (served.PENSTOCK, served.LLAMA_SERVER, served.LLAMA_PYTHON)
EIGHT, SIXTEEN = (work for work in served.SERVED_WORKS if work.name in ("served-8", "served-16"))


def test_the_command_line_knows_every_load() -> None:
    for works in (served.SERVED_WORKS, served.QUICK_SERVED):
        assert tuple(work.name for work in works) == SERVED
    assert [work.users for work in served.SERVED_WORKS] == [1, 8, 16, 32, 16]
    assert served.SERVED_WORKS[0].title == "served, 1 client, 256 tokens in, 64 out"


class Script:
    """Answers that take as long as their server does, on a clock that only they move."""

    def __init__(self, seconds: dict[str, float], broken: str = "") -> None:
        self.now, self.seconds, self.broken = 0.0, seconds, broken
        self.order: list[tuple[int, str, str]] = []

    def run(self, server: str, work: served.ServedWork, round: int) -> LoadRun:
        self.order.append((round, work.name, server))
        if server == self.broken:
            raise PeerFailed("it died.")
        self.now += self.seconds[server]
        return load_run(seen(0, self.seconds[server] - 0.1, 64))

    def measure(self, rounds: int, budget_s: float, *works: served.ServedWork) -> list[served.Served]:
        pace = Pace(rounds, budget_s, lambda: self.now)
        return served.measure(self.run, SERVERS, works, pace, lambda line: None)


def test_a_slow_server_gets_fewer_rounds_and_who_begins_changes() -> None:
    script = Script({served.PENSTOCK: 1.0, served.LLAMA_SERVER: 5.0, served.LLAMA_PYTHON: 100.0})
    units = script.measure(3, 12.0, EIGHT, SIXTEEN)
    assert {(unit.work.name, unit.server): len(unit.runs) for unit in units} == {
        (work.name, server): rounds
        for work in (EIGHT, SIXTEEN)
        for server, rounds in zip(SERVERS, (3, 2, 1), strict=True)
    }
    firsts = [next(server for at, _, server in script.order if at == round) for round in range(2)]
    assert firsts == [served.PENSTOCK, served.LLAMA_SERVER]


def test_a_server_that_failed_is_not_asked_again() -> None:
    script = Script({served.PENSTOCK: 1.0, served.LLAMA_PYTHON: 1.0}, broken=served.LLAMA_SERVER)
    units = script.measure(3, 100.0, EIGHT)
    assert [len(unit.runs) for unit in units] == [3, 0, 3]
    assert [unit.error for unit in units] == [None, "it died.", None]
    assert sum(server == served.LLAMA_SERVER for _, _, server in script.order) == 1
    assert [row["server"] for row in served_results.rows_of(units)] == [served.PENSTOCK, served.LLAMA_PYTHON]


@pytest.mark.parametrize(("late", "kept"), [([True, False], False), ([True, True], True), ([False], False)])
def test_a_round_with_a_late_client_is_measured_once_more(late: list[bool], kept: bool) -> None:
    runs = [replace(load_run(seen(0, 0.4, 64)), invalid=("late",) * each) for each in late]
    unit = served.Served(served.PENSTOCK, EIGHT)
    unit.once(lambda server, work, round: runs.pop(0), 0, lambda: 0.0)
    assert not runs
    assert [bool(run.invalid) for run in unit.runs] == [kept]


def test_the_ratio_is_of_the_same_rounds() -> None:
    rates = {served.PENSTOCK: [1.0, 2.0, 4.0], served.LLAMA_SERVER: [2.0, 4.0]}
    units = [
        served.Served(server, EIGHT, [load_run(seen(0, seconds - 0.1, 64)) for seconds in found])
        for server, found in rates.items()
    ]
    ours, theirs = served_results.rows_of(units)
    assert ours["ratio"]["value"] == pytest.approx(2.0) and ours["ratio"]["count"] == 2
    assert "ratio" not in theirs


def remark(run: LoadRun, **fields: Any) -> str:
    row = served_results.figures_of(served.PENSTOCK, EIGHT, [run, replace(run, **fields)])
    return markdown(served_results.table([row]))


def test_a_late_client_is_told() -> None:
    run = load_run(seen(0, 0.4, 64))
    assert "the client was late in 1 of 2 rounds" in remark(run, invalid=("send lag",))
    assert "late" not in remark(run)
