"""Runs a workload in one process or in several side by side, where one can't send fast enough.

Knows nothing about metrics. Invariant: however many processes, every conversation is run once, whole, by one of them,
and all times are of one clock.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from penstock.bench.health import invalid_because, merged
from penstock.bench.records import Ask
from penstock.bench.runner import (
    PROGRESS_S,
    Conversation,
    Progress,
    Report,
    RunPlan,
    RunResult,
    conversations,
    run_here,
)
from penstock.bench.wire import plain, plan_to, result_from
from penstock.core import ConfigError, ServerError

if sys.platform == "win32":
    resource = None
else:
    import resource

MAX_PROCESSES = 64
MAX_DESCRIPTORS = 65_536
START_DELAY_S = 0.5  # from "all are ready" to time zero
COMMAND = ("-m", "penstock.bench.worker")  # behind the interpreter
LAST_WORDS_S = 5.0  # how long a process may take to end after it closed its pipe
LAST_LINES = 5
MAX_LAST_BYTES = 2000


def run(plan: RunPlan, asks: Iterable[Ask], report: Report | None = None) -> RunResult:
    """Runs a workload.

    Args:
        plan: how.
        asks: what.
        report: called about twice a second with where it stands.

    Raises:
        ConfigError: the workload fits no plan like this, or the server can't be reached.
        ServerError: a client process died.
    """
    check(plan)
    groups = conversations(asks, plan.users)
    if not groups:
        raise ConfigError("there is nothing to send.", param="asks", hint="ask for more requests or a longer run.")
    allow_descriptors()
    if plan.processes == 1:
        return run_here(plan, groups, report)
    with ExitStack() as stack:
        parts = shares(plan, groups)
        workers = [stack.enter_context(Worker(part, share)) for part, share in parts]
        return together(plan, workers, report)


def allow_descriptors() -> None:
    """Raises this process's limit of open files, sockets among them, to what it may have; children inherit it."""
    if resource is not None:
        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MAX_DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, MAX_DESCRIPTORS)
        if resource.RLIM_INFINITY != now < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def check(plan: RunPlan) -> None:
    """Passes when the plan's numbers make sense.

    Raises:
        ConfigError: naming the number and its limit.
    """
    for name, value, least in (
        ("users", plan.users, 1),
        ("max_in_flight", plan.max_in_flight, 1),
        ("stop_s", plan.stop_s, 0),
        ("drain_s", plan.drain_s, 0),
    ):
        if value is not None and not value >= least:
            raise ConfigError(f"{name} is {value}, at least {least}.", param=name, hint="leave it out or raise it.")
    if not 1 <= plan.processes <= MAX_PROCESSES:
        raise ConfigError(
            f"processes is {plan.processes}, limit {MAX_PROCESSES}.", param="processes", hint="one a core at most."
        )
    if plan.users is not None and plan.max_in_flight is not None:
        raise ConfigError(
            "max_in_flight means nothing in a closed loop.", param="max_in_flight", hint="the users are its limit."
        )
    for name, limit in (("users", plan.users), ("max_in_flight", plan.max_in_flight)):
        if limit is not None and limit < plan.processes:
            raise ConfigError(
                f"{name} is {limit} with {plan.processes} processes.", param=name, hint="use fewer processes."
            )


def shares(plan: RunPlan, groups: Sequence[Conversation]) -> list[tuple[RunPlan, list[Conversation]]]:
    """What each process runs: every n-th conversation, and its part of the users and of the limit."""
    count = plan.processes

    def part(total: int | None, index: int) -> int | None:
        return None if total is None else total // count + (index < total % count)

    return [
        (
            replace(
                plan,
                processes=1,
                users=part(plan.users, index),
                max_in_flight=part(plan.max_in_flight, index),
                warm_connections=-(-plan.warm_connections // count),
            ),
            list(groups[index::count]),
        )
        for index in range(count)
    ]


class Worker:
    """A client process; ends with the block that it is entered for.

    Args:
        plan: how it runs.
        groups: what.
        command: starts it.
    """

    def __init__(self, plan: RunPlan, groups: Sequence[Conversation], command: Sequence[str] = COMMAND) -> None:
        self._order = {"plan": plan_to(plan), "groups": [[plain(ask) for ask in group] for group in groups]}
        self._command = command
        self.progress = Progress(0.0, sum(map(len, groups)), 0, 0, 0)
        self.result: RunResult | None = None
        self.error: str | None = None
        self.ready = threading.Event()
        self._over = threading.Event()  # not the thread's own end, which an interrupted join() takes for come
        self._damage = ""

    def __enter__(self) -> Worker:
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.tell(self._order)
        self._order = {}
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self.result is not None and (said := self._last_lines()):
            sys.stderr.write(said + "\n")
        self._stderr.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what it no longer reads
                    pipe.close()

    @property
    def alive(self) -> bool:
        """Whether there is more to come from it."""
        return not self._over.is_set()

    def tell(self, order: dict[str, Any]) -> None:
        """Writes one line to it; one that has died is found out by who reads it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order, separators=(",", ":")) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.ready.set()

    def join(self, timeout_s: float) -> None:
        """Waits until it has said everything, or for so long."""
        self._over.wait(timeout_s)

    def death(self) -> str:
        """How a process that gave no result ended: its exit code or signal, and its last lines on standard error."""
        try:
            code = self._process.wait(LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            how = "it closed its pipe and goes on"
        else:
            how = f"exit code {code}" if code >= 0 else f"killed by {signal_name(-code)}"
        return "; ".join(part for part in (how, self._damage, self._last_lines()) if part)

    def _last_lines(self) -> str:
        size = self._stderr.seek(0, 2)
        self._stderr.seek(max(0, size - MAX_LAST_BYTES))
        return "\n".join(self._stderr.read().decode("utf-8", "replace").split("\n")[-LAST_LINES - 1 :]).strip()

    def _read(self) -> None:
        try:
            self._read_lines()
        finally:
            self.ready.set()
            self._over.set()

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            try:
                line = json.loads(text)
            except ValueError:
                self._damage = f"its last line was cut off after {len(text):,} characters"
                return
            if "ready" in line:
                self.ready.set()
            elif "progress" in line:
                self.progress = Progress(**line["progress"])
            elif "error" in line:
                self.error = line["error"]
            else:
                self.result = result_from(line["result"])


def signal_name(number: int) -> str:
    """A signal's name, or its number where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def together(plan: RunPlan, workers: Sequence[Worker], report: Report | None) -> RunResult:
    """Starts the workers at one time, waits for all, and joins what they saw.

    An interrupt (Ctrl-C) ends the run, and what all saw until then is returned; a second one is raised.

    Raises:
        ConfigError: what one of them was told by the server's address or the workload.
        ServerError: one of them died.
    """
    for worker in workers:
        worker.ready.wait()
    start = {"start_s": time.monotonic() + START_DELAY_S}
    for worker in workers:
        worker.tell(start)
    try:
        await_all(workers, report)
    except KeyboardInterrupt:
        for worker in workers:
            worker.tell({"stop": True})
        await_all(workers, report)
    results = [worker.result for worker in workers if worker.result is not None]
    health = merged([result.health for result in results])
    return RunResult(
        seen=tuple(sorted((one for result in results for one in result.seen), key=lambda one: one.id)),
        health=health,
        invalid=invalid_because(health, plan.bounds),
        texts={key: text for result in results for key, text in result.texts.items()},
        duration_s=max(result.duration_s for result in results),
        interrupted=any(result.interrupted for result in results),
    )


def await_all(workers: Sequence[Worker], report: Report | None) -> None:
    """Waits until every worker has given its result; as soon as one has ended without, the run is over.

    Raises:
        ConfigError: what one of them was told.
        ServerError: one of them died.
    """
    while True:
        going = [worker for worker in workers if worker.alive]
        for worker in workers:
            if worker.error is not None:
                raise ConfigError(worker.error)
        dead = [worker for worker in workers if worker not in going and worker.result is None]
        if dead:
            raise ServerError(f"{len(dead)} of {len(workers)} client processes died: {dead[0].death()}")
        if not going:
            return
        going[0].join(PROGRESS_S)
        if report is not None:
            report(summed([worker.progress for worker in workers]))


def summed(parts: Sequence[Progress]) -> Progress:
    """Where all of them stand."""
    return Progress(
        at_s=max(part.at_s for part in parts),
        num_asks=sum(part.num_asks for part in parts),
        num_sent=sum(part.num_sent for part in parts),
        num_ended=sum(part.num_ended for part in parts),
        num_ok=sum(part.num_ok for part in parts),
    )
