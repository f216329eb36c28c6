"""One client process of a run: `python -m penstock.bench.worker`, fed and read by its parent over pipes.

Knows nothing about its siblings. Invariant: it says "ready" before it is given the start, which is a time of the
system-wide monotonic clock, so that all clients have one zero.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from penstock.bench.runner import Progress, run_here
from penstock.bench.wire import ask_from, plain, plan_from, result_to
from penstock.core import PenstockError


def work(given: TextIO, told: TextIO, started: Callable[[], None]) -> None:
    """Reads a plan with its asks and then the start, runs, and writes progress and the result.

    Args:
        given: where the parent writes.
        told: where it reads.
        started: called when there is nothing more to read.
    """

    def tell(**line: Any) -> None:
        told.write(json.dumps(line, separators=(",", ":")) + "\n")
        told.flush()

    order = json.loads(given.readline())
    plan = plan_from(order["plan"])
    groups = [[ask_from(ask) for ask in group] for group in order["groups"]]
    tell(ready=True)
    start = json.loads(given.readline())["start_s"]
    started()

    def report(progress: Progress) -> None:
        tell(progress=plain(progress))

    try:
        tell(result=result_to(run_here(plan, groups, report, start)))
    except PenstockError as error:
        tell(error=str(error))


def leave_with_parent() -> None:
    """Ends this process when its parent closes the pipe: no load goes on that nobody waits for."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its clients
    work(sys.stdin, sys.stdout, leave_with_parent)
