"""A driver's process as the coordinator holds it: one order, one answer, stopped in between.

Knows nothing about what is measured. Invariant: a child that has no order is stopped (SIGSTOP), so that no thread of it
spins beside the one that is measured; none outlives its `close`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
MAX_ANSWER_BYTES = 1 << 20


class PeerFailed(Exception):
    """The peer said why it could not do what it was asked to, or died, or took too long."""


class Child:
    """One driver.

    Args:
        python: interpreter of its environment.
        driver: name of its module in `benchmarks.peers.drivers`, or a whole module's.
        threads: for every library that reads its number from the environment.
        log: file that takes what it prints.
    """

    def __init__(self, python: Path, driver: str, threads: int, log: Path) -> None:
        module = driver if "." in driver else f"benchmarks.peers.drivers.{driver}"
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), "HF_HUB_OFFLINE": "1"}
        environment["TOKENIZERS_PARALLELISM"] = "false"
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [str(python), "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        self._log_path = log

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, order: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer to an order.

        Raises:
            PeerFailed: it is dead, says an error, or took too long, after which it is dead.
        """
        self._signal(signal.SIGCONT)
        try:
            line = self._exchange(json.dumps(order).encode() + b"\n", timeout_s)
        finally:
            self._signal(signal.SIGSTOP)
        said = json.loads(line)
        if "error" in said:
            raise PeerFailed(str(said["error"]))
        found: dict[str, Any] = said["ok"]
        return found

    def _exchange(self, order: bytes, timeout_s: float) -> bytes:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(order)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed(self._death()) from None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        if not ready:
            self.close()
            raise PeerFailed(f"took longer than {timeout_s:,.0f} s.")
        line = self._process.stdout.readline(MAX_ANSWER_BYTES)
        if not line:
            raise PeerFailed(self._death())
        return line

    def _death(self) -> str:
        code = self._process.wait()
        self.close()
        return f"died with {code}: {last_line(self._log_path)}"

    def _signal(self, number: int) -> None:
        if self.alive:
            os.killpg(self._process.pid, number)

    def close(self) -> None:
        """Ends it and whatever it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:  # an order that it no longer took
                    continue
        self._log.close()


def last_line(log: Path, limit: int = 300) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:limit] if lines else "it said nothing."
