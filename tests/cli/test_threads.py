"""`--threads` and `--numa`: a process has the compute threads that it was asked for, and says so."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.terminal import environment, is_one_error, penstock, talkative_model
from tests.live_server import LiveServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")


def threads_of(process: int) -> int:
    """Threads of a process, without those that were about to end."""
    counts = []
    for _ in range(10):
        counts.append(len(list(Path(f"/proc/{process}/task").iterdir())))
        time.sleep(0.02)
    return min(counts)


def served(threads: int) -> int:
    with LiveServer("--threads", str(threads), "--numa", "off", "--no-pack-cache") as live:
        [said] = [line for line in live.lines if " threads, KV " in line]
        assert f", {threads} threads, KV " in said
        return threads_of(live.process.pid)


def test_serve_has_the_threads_asked_for() -> None:
    """Pools differ by their workers and nothing else does."""
    one, four = served(1), served(4)
    assert four - one == 3


def test_run_has_the_threads_asked_for(tmp_path: Path) -> None:
    model = str(talkative_model(tmp_path / "model"))
    found = []
    for threads in (1, 4):
        command = [sys.executable, "-m", "penstock", "run", "The", "-m", model, "--max-tokens", "30000"]
        command += ["--threads", str(threads), "--no-pack-cache", "--temperature", "0"]  # it does not end by itself
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            found.append(threads_of(process.pid))
            assert process.poll() is None
            process.kill()
    assert found[1] - found[0] == 3


def test_doctor_shows_the_threads_that_serve_would_have() -> None:
    lines = [line.split() for line in penstock("doctor", PENSTOCK_SERVE_THREADS="1").stdout.splitlines()]
    assert ["threads", "1", "environment"] in [line[:3] for line in lines]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "x", "--threads", "0"], "--threads"),
        (["serve", "--port", "0", "--threads", "1025"], "threads is 1025; it must be 1 to 1024"),
        (["run", "x", "--numa", "maybe"], "numa is 'maybe'; auto and off exist"),
    ],
)
def test_nonsense_is_one_line(arguments: list[str], said: str) -> None:
    assert said in is_one_error(penstock(*arguments), 2)
