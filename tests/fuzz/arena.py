"""Cases run in forked processes under a limit of memory and a watchdog: a crash or a hang is a finding, not an end."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz.opening import Open, Outcome, attempt, case_path, open_model, write

HANG_S = 20.0
ADDRESS_BYTES = 4 * 1024**3
Files = dict[str, bytes]


@dataclass
class Worker:
    """A forked process that runs cases by their seed."""

    folder: Path
    make: Callable[[int], Files]
    opener: Open = open_model
    apart: bool = False  # cases are made in a process of their own, or opening them would take what making them left
    pid: int = 0
    ask: int = -1
    told: int = -1

    def start(self) -> None:
        """Forks it."""
        ask_read, self.ask = os.pipe()
        self.told, told_write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(ask_read)
            os.close(told_write)
            return
        try:
            os.close(self.ask)
            os.close(self.told)
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            faulthandler.disable()  # a crash is told by the exit code
            self._answer(ask_read, told_write)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(70)

    def _answer(self, asks: int, told: int) -> None:
        """Runs what is asked until the other end is closed; what a library prints is a finding too."""
        noise = os.memfd_create("noise")
        for number in (1, 2):
            os.dup2(noise, number)
        with os.fdopen(asks) as lines:
            for line in lines:
                outcome = attempt(self._written(int(line)), self.opener)
                if outcome.sound and (printed := os.pread(noise, 1000, 0)):
                    outcome = Outcome("noise", printed.decode(errors="replace"), outcome.grown_bytes)
                os.ftruncate(noise, 0)
                os.lseek(noise, 0, os.SEEK_SET)
                os.write(told, json.dumps(asdict(outcome)).encode() + b"\n")

    def _written(self, seed: int) -> Path:
        """The path of a case, once it is on disk."""
        if not self.apart:
            return write(self.make(seed), self.folder)
        child = os.fork()
        if not child:
            write(self.make(seed), self.folder)
            os._exit(0)
        os.waitpid(child, 0)
        return case_path(self.folder)

    def run(self, seed: int, hang_s: float = HANG_S) -> Outcome:
        """What came of one case; a process that died or hung is replaced."""
        if not self.pid:
            self.start()
        os.write(self.ask, f"{seed}\n".encode())
        said = b""
        deadline = time.monotonic() + hang_s
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([self.told], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.stop()
                return Outcome("hang", f"over {hang_s:.0f} s")
            data = os.read(self.told, 65536)
            if not data:
                return Outcome("crash", self.stop())
            said += data
        return Outcome(**json.loads(said))

    def stop(self) -> str:
        """Ends the process; how it ended."""
        if not self.pid:
            return ""
        os.close(self.ask)
        time.sleep(0.01)
        with suppress(ProcessLookupError):
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if not done:
                os.kill(self.pid, signal.SIGKILL)
                _, status = os.waitpid(self.pid, 0)
        os.close(self.told)
        self.pid = 0
        shutil.rmtree(self.folder, ignore_errors=True)
        return (
            f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.waitstatus_to_exitcode(status)}"
        )


def run_all(seeds: Iterable[int], worker: Worker, hang_s: float = HANG_S) -> Iterator[tuple[int, Outcome]]:
    """(seed, outcome) of every case, in one process after the other."""
    try:
        for seed in seeds:
            yield seed, worker.run(seed, hang_s)
    finally:
        worker.stop()
