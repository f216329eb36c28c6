"""Time from `penstock serve` to ready and to the first streamed token: bundled model and random 0.6B-shape checkpoints.

Each run is a fresh process: the clock starts before it is spawned, stops when /health/ready answers 200. Run it on an
otherwise idle machine; medians with minimum and maximum are printed and written as JSON.

    python benchmarks/startup.py --rounds 5 --json benchmarks/records/startup.json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from random_checkpoint import checkpoint
from record_tables import expect_tables, show
from records import write_record

LIMIT_S = 120.0


def one(model: str | None, cache: str) -> tuple[float, float, float]:
    """(ready, first token, ready as the server says) in seconds of one fresh server."""
    command = [sys.executable, "-m", "penstock", "serve", *([model] if model else []), "--port", "0"]
    started = time.perf_counter()
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "XDG_CACHE_HOME": cache})
    try:
        assert server.stderr is not None
        said = 0.0
        url = ""
        for line in server.stderr:
            match = re.search(r"ready in ([\d.]+) s on (http://\S+)", line)
            if match:
                said, url = float(match[1]), match[2]
                break
        if not url:
            raise SystemExit(f"the server did not start: {command}")
        while True:
            try:
                with urllib.request.urlopen(f"{url}/health/ready", timeout=5) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                if time.perf_counter() - started > LIMIT_S:
                    raise
        ready = time.perf_counter() - started
        name = json.load(urllib.request.urlopen(f"{url}/v1/models", timeout=5))["data"][0]["id"]
        body = json.dumps({"model": name, "prompt": "The old house", "max_tokens": 4, "stream": True}).encode()
        request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.readline()
            first = time.perf_counter() - started
            answer.read()
        return ready, first, said
    finally:
        server.terminate()
        server.wait(30)


def main() -> None:
    """Measures every model in turn, round by round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", default="bf16,q8_0,q4_0")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="page whose table of start-up is written anew")
    arguments = parser.parse_args()
    expect_tables(arguments.page, "startup")
    models: dict[str, str | None] = {"bundled": None}
    models.update({f"0.6B {kind}": str(checkpoint(kind)) for kind in arguments.kinds.split(",")})
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in models}
    first: dict[str, tuple[float, float, float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for name, model in models.items():
            first[name] = one(model, cache)  # writes the pack cache where the format has one
        for _ in range(arguments.rounds):
            for name, model in models.items():
                times[name].append(one(model, cache))
    print("| model | first start s | ready s (min-max) | first token s |\n|---|---|---|---|")
    record = {}
    for name, runs in times.items():
        ready, token = [run[0] for run in runs], [run[1] for run in runs]
        print(
            f"| {name} | {first[name][0]:.2f} | {statistics.median(ready):.2f} ({min(ready):.2f}-{max(ready):.2f}) "
            f"| {statistics.median(token):.2f} |"
        )
        record[name] = {"first_start_s": first[name][0], "ready_s": ready, "first_token_s": token}
    show(write_record(arguments.json, "startup", record, rounds=arguments.rounds), arguments.page)


if __name__ == "__main__":
    main()
