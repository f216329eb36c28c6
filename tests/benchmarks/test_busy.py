"""The busy core: ratios by hand, the other process really computes where it should, and too few chunks are refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from benchmarks.peers.busy import WORK, Gaps, busy_core, figures_of, gaps_of, table
from benchmarks.peers.child import PeerFailed
from tests.benchmarks.test_peers_results import load_run, seen

from penstock.bench import markdown


def test_ratios_are_of_the_two_answers_of_a_round() -> None:
    idle = [[0.01] * 10, [0.02] * 10, [0.03] * 10]
    found = figures_of("x", Gaps(idle, [[3 * gap for gap in each] for each in idle]))
    assert found["mean"]["ratios"] == pytest.approx([3.0, 3.0, 3.0])
    assert found["mean"]["idle_s"]["value"] == pytest.approx(0.02)
    assert found["p95"]["ratio"]["value"] == pytest.approx(3.0)
    row = "| x q4_0 | 20 (10 to 30) | 20 (10 to 30) | 60 (30 to 90) | 60 (30 to 90) |"
    assert row in markdown(table([found]))


def test_a_stall_is_in_the_mean_and_not_in_the_median() -> None:
    found = figures_of("x", Gaps([[0.01] * 10], [[0.01] * 9 + [0.91]]))
    assert found["mean"]["ratio"]["value"] == pytest.approx(10.0)
    assert found["p50"]["ratio"]["value"] == pytest.approx(1.0)
    assert "late" not in markdown(table([found]))


def test_a_late_client_is_told() -> None:
    assert "| 1, the client late in 1 |" in markdown(table([figures_of("x", Gaps([[0.01] * 10], [[0.02] * 10], 1))]))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_the_other_process_computes_on_that_core_and_ends() -> None:
    core = max(os.sched_getaffinity(0))
    with busy_core(core) as pid:
        assert os.sched_getaffinity(pid) == {core}
        before = cpu_seconds(pid)
        deadline = time.monotonic() + 20.0
        while cpu_seconds(pid) < before + 0.05 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert cpu_seconds(pid) >= before + 0.05
    assert not Path(f"/proc/{pid}").exists()


def test_a_core_that_is_not_there_is_said() -> None:
    with pytest.raises(PeerFailed, match="core 100000"), busy_core(100_000):
        pass


def test_an_answer_of_few_chunks_is_refused() -> None:
    with pytest.raises(PeerFailed, match=f"{WORK.output_tokens} tokens came in 2 chunks"):
        gaps_of(load_run(seen(0, 0.4, WORK.output_tokens)))
