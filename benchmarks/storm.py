"""ITL of 8 streams and latency of /health/live while heavy requests arrive: whether HTTP ever blocks the engine.

Eight streams run and hold every slot. By turns they run in peace, and ten prompts of 100,000 tokens and bodies of 1 MB
arrive at once, queue behind them and are taken back. A stream's tokens cost more the longer it is, so each storm is set
against the peace before and after it together. Printed: p50 and p99 of the gaps between streamed tokens, the ratio of
the p99s in each round and their median, and the slowest /health/live answer during a storm. The machine should be idle
otherwise.

    python benchmarks/storm.py --json benchmarks/records/storm.json --page docs/speed.md
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
from random_checkpoint import checkpoint
from record_tables import expect_tables, show
from records import write_record

STREAMS = 8
LONG_PROMPTS = 10
LONG_TOKENS = 100_000
CONTEXT = 131_072
JSON = {"Content-Type": "application/json"}


def long_context(source: Path, folder: Path) -> Path:
    """The same checkpoint with a declared context of CONTEXT tokens."""
    for path in source.iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path.resolve())
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT}))
    return folder


def start(model: Path) -> tuple[subprocess.Popen[str], str]:
    """A server whose slots the eight streams fill."""
    command = [sys.executable, "-m", "penstock", "serve", str(model), "--port", "0", "--max-running", str(STREAMS)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert server.stderr is not None
    for line in server.stderr:
        match = re.search(r"ready in [\d.]+ s on (http://\S+)", line)
        if match:
            return server, match[1]
    raise SystemExit("the server did not start")


async def stream(client: httpx.AsyncClient, name: str, stamps: list[float], stop: asyncio.Event) -> None:
    """One endless stream; notes when each token came."""
    body = {"model": name, "prompt": f"Stream {id(stamps)}", "max_tokens": 100_000, "stream": True, "ignore_eos": True}
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                stamps.append(time.perf_counter())
            if stop.is_set():
                return


def heavy_bodies(name: str) -> list[bytes]:
    """LONG_PROMPTS prompts of LONG_TOKENS tokens and as many bodies of 1 MB, encoded beforehand."""
    words = ["river", "stone", "lamp", "winter", "harbour"]
    text = " ".join(words[i % 5] for i in range(LONG_TOKENS - 10))
    prompts = [{"model": name, "prompt": f"{i} {text}", "max_tokens": 4} for i in range(LONG_PROMPTS)]
    filler = {"filler": "y" * 1_000_000}
    large = [{"model": name, "prompt": "x", "max_tokens": 4, "metadata": filler}] * LONG_PROMPTS
    return [json.dumps(body).encode() for body in (*prompts, *large)]


async def heavy(client: httpx.AsyncClient, body: bytes) -> int:
    """Sends one of them; returns the status."""
    return (await client.post("/v1/completions", content=body, headers=JSON)).status_code


def probe(url: str, stop: Event, out: Connection) -> None:
    """Asks /health/live every 10 ms from a process of its own; sends (when, seconds) of every answer."""
    times = []
    with httpx.Client(base_url=url, timeout=30) as client:
        while not stop.is_set():
            began = time.perf_counter()
            client.get("/health/live")
            times.append((began, time.perf_counter() - began))
            time.sleep(0.01)
    out.send(times)


def start_probe(url: str) -> tuple[SpawnProcess, Event, Connection]:
    """The probing process, what ends it, and where its times come out."""
    spawn = multiprocessing.get_context("spawn")
    stop, (here, there) = spawn.Event(), spawn.Pipe(duplex=False)
    process = spawn.Process(target=probe, args=(url, stop, there), daemon=True)
    process.start()
    return process, stop, here


def gaps(streams: list[list[float]], begin: float, end: float) -> list[float]:
    """Sorted gaps between tokens that came within [begin, end]."""
    found = [b - a for s in streams for a, b in itertools.pairwise(s) if begin <= a and b <= end]
    return sorted(found)


def at(values: list[float], share: float) -> float:
    """A percentile of sorted values."""
    return values[min(len(values) - 1, int(share * len(values)))]


async def storm(client: httpx.AsyncClient, bodies: list[bytes], seconds: float) -> tuple[float, float]:
    """The heavy requests arrive together and are taken back after `seconds`; returns when it began and ended."""
    begin = time.perf_counter()
    heavies = [asyncio.create_task(heavy(client, body)) for body in bodies]
    await asyncio.sleep(seconds)
    end = time.perf_counter()
    for task in heavies:
        task.cancel()
    for answer in await asyncio.gather(*heavies, return_exceptions=True):
        if not isinstance(answer, asyncio.CancelledError | httpx.HTTPError):
            raise SystemExit(f"a heavy request was answered ({answer}) instead of queued: there was no storm")
    return begin, end


async def peace(seconds: float) -> tuple[float, float]:
    """Nothing but the streams, once what went before has settled; returns when it began and ended."""
    await asyncio.sleep(3.0)
    begin = time.perf_counter()
    await asyncio.sleep(seconds)
    return begin, time.perf_counter()


async def run(url: str, seconds: float, rounds: int) -> dict[str, object]:
    """Peace and storm by turns on one server, each storm between two times of peace."""
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
        name = (await client.get("/v1/models")).json()["data"][0]["id"]
        stop, stamps = asyncio.Event(), [[] for _ in range(STREAMS)]
        running = [asyncio.create_task(stream(client, name, s, stop)) for s in stamps]
        while any(len(s) < 5 for s in stamps):
            await asyncio.sleep(0.1)
        bodies = heavy_bodies(name)
        prober, ended, times = start_probe(url)
        calms, storms = [await peace(seconds)], []
        for _ in range(rounds):
            storms.append(await storm(client, bodies, seconds))
            calms.append(await peace(seconds))
        stop.set()
        for task in running:
            task.cancel()
        ended.set()
        probes = await asyncio.to_thread(times.recv)
        prober.join()
    return figures(stamps, calms, storms, probes)


def figures(
    stamps: list[list[float]],
    calms: list[tuple[float, float]],
    storms: list[tuple[float, float]],
    probes: list[tuple[float, float]],
) -> dict[str, object]:
    """Each storm beside the peace before and after it, and the median of their ratios."""
    quiet = [sorted(gaps(stamps, *calms[i]) + gaps(stamps, *calms[i + 1])) for i in range(len(storms))]
    loud = [gaps(stamps, *each) for each in storms]
    ratios = [at(loud[i], 0.99) / at(quiet[i], 0.99) for i in range(len(storms))]
    answers = sorted(took for when, took in probes if any(begin <= when <= end for begin, end in storms))
    return {
        "calm_itl_ms": [{"p50": at(g, 0.5) * 1e3, "p99": at(g, 0.99) * 1e3, "gaps": len(g)} for g in quiet],
        "storm_itl_ms": [{"p50": at(g, 0.5) * 1e3, "p99": at(g, 0.99) * 1e3, "gaps": len(g)} for g in loud],
        "p99_ratios": ratios,
        "p99_ratio_median": statistics.median(ratios),
        "health_live_ms": {"p50": at(answers, 0.5) * 1e3, "max": answers[-1] * 1e3, "probes": len(answers)},
    }


def main() -> None:
    """Starts the server, runs both phases, prints and records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="bf16")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="page whose table of storms is written anew")
    arguments = parser.parse_args()
    expect_tables(arguments.page, "storm")
    with tempfile.TemporaryDirectory() as folder:
        server, url = start(long_context(checkpoint(arguments.kind), Path(folder)))
        try:
            result = asyncio.run(run(url, arguments.seconds, arguments.rounds))
        finally:
            server.terminate()
            server.wait(60)
    print(json.dumps(result, indent=1))
    choices = {"kind": arguments.kind, "seconds": arguments.seconds, "rounds": arguments.rounds, "streams": STREAMS}
    show(write_record(arguments.json, "storm", result, **choices), arguments.page)


if __name__ == "__main__":
    main()
