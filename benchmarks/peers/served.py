"""The served part: penstock and llama.cpp's servers under the same closed load, by penstock's own client.

Knows nothing about the works in process. Invariant: a server is started for one run and ended after it, so that no
cache, slot or thread of it meets the next one; every prompt is new to it but for the prefix that is shared on purpose.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
from benchmarks.peers.child import ROOT, THREAD_VARIABLES, PeerFailed, last_line
from benchmarks.peers.environment import Peers
from benchmarks.peers.rounds import Pace
from benchmarks.peers.works import KV_BYTES_A_TOKEN, LLAMA

from penstock.assemble import read_tokenizer
from penstock.bench import (
    ClosedLoop,
    Endpoint,
    Fixed,
    Independent,
    LoadRun,
    LocalCounter,
    PromptMaker,
    RunPlan,
    Target,
    WorkloadOptions,
    drive,
    named_workload,
)
from penstock.model import open_checkpoint

READY_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1
WARM_ROUND = 1000  # prompts of warm-ups are of no round
PAGE = 256  # contexts of llama.cpp are whole multiples of it
FORMAT = "q4_0"
PENSTOCK, LLAMA_SERVER, LLAMA_PYTHON = "penstock serve", "llama-server", "llama_cpp.server"


@dataclass(frozen=True)
class ServedWork:
    """One load: as many requests as clients, all at once.

    Attributes:
        name: of the command line.
        users: clients.
        prompt_tokens: of a request's own.
        output_tokens: that each asks for.
        prefix_tokens: that all begin with.
    """

    name: str
    users: int
    prompt_tokens: int = 256
    output_tokens: int = 64
    prefix_tokens: int = 0

    @property
    def title(self) -> str:
        """For people."""
        prefix = f" after the same {self.prefix_tokens:,}" if self.prefix_tokens else ""
        clients = f"{self.users} client{'s' * (self.users > 1)}"
        return f"served, {clients}, {self.prompt_tokens} tokens in{prefix}, {self.output_tokens} out"

    @property
    def context(self) -> int:
        """Tokens that one request needs, in whole pages."""
        return -(-(self.prefix_tokens + self.prompt_tokens + self.output_tokens + 1) // PAGE) * PAGE


SERVED_WORKS = (
    *(ServedWork(f"served-{users}", users) for users in (1, 8, 16, 32)),
    ServedWork("shared-prefix", 16, prompt_tokens=32, output_tokens=32, prefix_tokens=1000),
)
QUICK_SERVED = (
    *(ServedWork(f"served-{name}", users, 48, 8) for name, users in ((1, 1), (8, 4), (16, 6), (32, 8))),
    ServedWork("shared-prefix", 4, prompt_tokens=48, output_tokens=8, prefix_tokens=128),
)
# What a server can't do like the others; stands in the tables.
LACKS = {LLAMA_PYTHON: "one request at a time: it has no slots"}


def command(server: str, model: Path, port: int, work: ServedWork, threads: int, peers: Peers) -> list[str]:
    """How a server is started: two threads, as many slots as clients where it has slots.

    Raises:
        PeerFailed: it is not there.
    """
    address = ["--host", "127.0.0.1", "--port", str(port)]
    if server == PENSTOCK:
        kv_bytes = str(work.context * work.users * KV_BYTES_A_TOKEN)
        sizes = ["--max-model-tokens", str(work.context), "--kv-bytes", kv_bytes, "--threads", str(threads)]
        return [sys.executable, "-m", "penstock", "serve", str(model), *address, *sizes]
    if server == LLAMA_SERVER:
        if peers.server is None:
            raise PeerFailed(peers.server_failed)
        sizes = ["-c", str(work.context * work.users), "-np", str(work.users)]
        return [str(peers.server), "-m", str(model), *address, *sizes, "-t", str(threads), "-tb", str(threads)]
    if LLAMA not in peers.python:
        raise PeerFailed(f"{LLAMA} was not installed: {peers.failed.get(LLAMA, 'not chosen')}")
    sizes = ["--n_ctx", str(work.context), "--n_threads", str(threads), "--n_threads_batch", str(threads)]
    module = [str(peers.python[LLAMA]), "-m", "llama_cpp.server", "--model", str(model)]
    return [*module, *address, *sizes, "--flash_attn", "true", "--interrupt_requests", "false"]


@contextmanager
def started(line: Sequence[str], url: str, threads: int, log: Path) -> Iterator[str]:
    """A server that answers; yields the name of its model.

    Raises:
        PeerFailed: it died or was not ready in time.
    """
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    with log.open("wb") as file:
        process = subprocess.Popen(line, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        try:
            yield ready(process, url, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ready(process: subprocess.Popen[bytes], url: str, log: Path) -> str:
    """The name of the first model that a server lists, as soon as it does.

    Raises:
        PeerFailed: it died or was not ready in time.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    with httpx.Client(timeout=5.0, trust_env=False) as http:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise PeerFailed(f"died with {process.returncode}: {last_line(log)}")
            try:
                answer = http.get(f"{url}/v1/models")
                if answer.status_code == 200:
                    return str(answer.json()["data"][0]["id"])
            except httpx.TransportError:
                pass
            time.sleep(POLL_S)
    raise PeerFailed(f"was not ready after {READY_TIMEOUT_S:.0f} s: {last_line(log)}")


class Bench:
    """Runs loads.

    Args:
        model: GGUF file that all serve.
        threads: each may use.
        peers: what there is.
    """

    def __init__(self, model: Path, threads: int, peers: Peers) -> None:
        self._model, self._threads, self._peers = model, threads, peers
        self._counter = LocalCounter(read_tokenizer(open_checkpoint(model)))

    def run(self, server: str, work: ServedWork, round: int) -> LoadRun:
        """One load on a fresh server, after one request that doesn't count.

        Raises:
            PeerFailed: the server failed, or a request did.
        """
        with self.fresh(server, work, round) as target:
            return load(target, work, round)

    @contextmanager
    def fresh(self, server: str, work: ServedWork, round: int) -> Iterator[Target]:
        """A server that was started for this and has answered one request.

        Raises:
            PeerFailed: the server failed, or the request did.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        line = command(server, self._model, port, work, self._threads, self._peers)
        log = self._model.parent / f"served-{server.replace(' ', '-')}.log"
        with started(line, url, self._threads, log) as name:
            maker = PromptMaker(self._counter, seed=1 + round)
            plan = RunPlan(Endpoint(url, name, timeout_s=REQUEST_TIMEOUT_S), drain_s=REQUEST_TIMEOUT_S)
            target = Target(f"{server} {FORMAT}, {work.name}", plan, maker, warmup_s=0.0)
            load(target, replace(work, users=1, prefix_tokens=0, output_tokens=2), WARM_ROUND + round)
            yield target


def load(target: Target, work: ServedWork, round: int) -> LoadRun:
    """One load on a server that is there.

    Raises:
        PeerFailed: a request failed.
    """
    options = WorkloadOptions(
        arrivals=ClosedLoop(work.users),
        lengths=Independent(Fixed(work.prompt_tokens), Fixed(work.output_tokens)),
        num_requests=work.users,
        prefix_tokens=work.prefix_tokens,
        seed=round,
    )
    found = drive(target, named_workload("random", options), round=round)
    bad = [one for one in found.seen if one.outcome.value != "ok"]
    if bad:
        raise PeerFailed(f"{len(bad)} of {len(found.seen)} requests failed: {bad[0].outcome.value}, {bad[0].error}")
    return found


@dataclass
class Served:
    """One server at one load.

    Attributes:
        server, work: which.
        runs: one a round.
        spent_s, last_s: what its rounds took in all, and the last one.
        error: why it was given up.
    """

    server: str
    work: ServedWork
    runs: list[LoadRun] = field(default_factory=list)
    spent_s: float = 0.0
    last_s: float = 0.0
    error: str | None = None

    def goes_on(self, budget_s: float) -> bool:
        """Whether it gets another round: it never failed, and one more like the last fits its share of time."""
        return self.error is None and self.spent_s + self.last_s <= budget_s

    def once(self, run: Callable[[str, ServedWork, int], LoadRun], round: int, clock: Callable[[], float]) -> str:
        """Measures a round; returns what it brought, for people.

        Where the client was late, the round is measured once more, and the second counts: lateness is a stall of the
        machine far more often than a client that can't keep up.
        """
        start = clock()
        try:
            found = run(self.server, self.work, round)
            self.runs.append(run(self.server, self.work, round) if found.invalid else found)
        except PeerFailed as error:
            self.error = str(error)
        self.last_s = clock() - start
        self.spent_s += self.last_s
        return f"round {round + 1}  {self.server}, {self.work.name}: {self.error or f'{self.last_s:.1f} s'}"


def measure(
    run: Callable[[str, ServedWork, int], LoadRun],
    servers: Sequence[str],
    works: Sequence[ServedWork],
    pace: Pace,
    say: Callable[[str], None],
) -> list[Served]:
    """Every server at every load, interleaved like the works in process; one that is slow gets fewer rounds."""
    units = {(work.name, server): Served(server, work) for work in works for server in servers}
    for round in range(pace.rounds):
        order = [*servers[round % len(servers) :], *servers[: round % len(servers)]]
        for work in works:
            for server in order:
                if (unit := units[work.name, server]).goes_on(pace.budget_s):
                    say(unit.once(run, round, pace.clock))
    return list(units.values())
