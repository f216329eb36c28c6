"""`--threads` and `--numa`: a process has the compute threads that it was asked for, and says so."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cli.terminal import environment, is_one_error, penstock, talkative_model
from tests.live_server import LiveServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")


def threads_of(process: int) -> int:
    return len(list(Path(f"/proc/{process}/task").iterdir()))


def workers_apart(one: int, four: int) -> bool:
    """Whether two processes come to differ by three threads: pools do, and what else runs for a while ends."""
    for _ in range(400):
        if threads_of(four) - threads_of(one) == 3:
            return True
        time.sleep(0.025)
    return False


@contextmanager
def served(threads: int) -> Iterator[int]:
    with LiveServer("--threads", str(threads), "--numa", "off", "--no-pack-cache") as live:
        [said] = [line for line in live.lines if " threads, KV " in line]
        assert f", {threads} threads, KV " in said
        yield live.process.pid


def test_serve_has_the_threads_asked_for() -> None:
    with served(1) as one, served(4) as four:
        assert workers_apart(one, four)


@contextmanager
def running(model: Path, threads: int) -> Iterator[int]:
    command = [sys.executable, "-m", "penstock", "run", "The", "-m", str(model), "--max-tokens", "30000"]
    command += ["--threads", str(threads), "--no-pack-cache", "--temperature", "0"]  # it does not end by itself
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        try:
            process.stdout.read(1)
            yield process.pid
            assert process.poll() is None
        finally:
            process.kill()


def test_run_has_the_threads_asked_for(tmp_path: Path) -> None:
    model = talkative_model(tmp_path / "model")
    with running(model, 1) as one, running(model, 4) as four:
        assert workers_apart(one, four)


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
