"""One client process of a run: `python -m penstock.bench.worker`, fed and read by its parent over pipes.

Knows nothing about its siblings. Invariant: it says "ready" before it is given the start, which is a time of the
system-wide monotonic clock, so that all clients have one zero; what it says arrives whole, however long it is.
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


def work(given: TextIO, told: TextIO) -> None:
    """Reads a plan with its asks and then the start, runs, and writes progress and the result.

    Args:
        given: where the parent writes; a line after the start ends the run early, its end ends this process.
        told: where it reads.
    """

    def tell(**line: Any) -> None:
        told.write(json.dumps(line, separators=(",", ":")) + "\n")
        told.flush()

    def report(progress: Progress) -> None:
        tell(progress=plain(progress))

    def heed_parent(stop: Callable[[], None]) -> None:
        threading.Thread(target=heed, args=(given, stop), daemon=True).start()

    order = json.loads(given.readline())
    plan = plan_from(order["plan"])
    groups = [[ask_from(ask) for ask in group] for group in order["groups"]]
    tell(ready=True)
    start = json.loads(given.readline() or "null")
    if start is None:  # the parent has gone
        return
    try:
        tell(result=result_to(run_here(plan, groups, report, start["start_s"], heed_parent)))
    except PenstockError as error:
        tell(error=str(error))


def heed(given: TextIO, stop: Callable[[], None]) -> None:
    """Stops the run when the parent says so, and ends this process when it has gone: no load goes on unwatched."""
    while given.readline():
        stop()
    os._exit(1)


def own_stdout() -> TextIO:
    """Standard output for the parent alone: what anything else prints goes to standard error from now on.

    It has a buffer whatever PYTHONUNBUFFERED says. Without one, Python takes a write for done that the kernel cut
    short, as it does where a signal or work of its own (closing a loop's sockets) comes while a pipe is full.
    """
    sys.stdout.flush()
    told = open(os.dup(1), "w", encoding="utf-8")  # noqa: SIM115
    os.dup2(2, 1)
    return told


def main() -> None:
    """Works for the parent, and ends without waiting for the thread that listens to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    work(sys.stdin, own_stdout())
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
