"""Starts a server on the bundled model, streams one answer from it, says how fast it was, and shuts it down.

Needs the base install only. Invariant: the server has ended when this ends, however it ends; the exit code is 0 only if
an answer came and the server shut down cleanly.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PROMPT = "It was a cold evening in November, and the old man"
START_LIMIT_S = 120
STOP_LIMIT_S = 40
READY = re.compile(r"ready in .* on (http://\S+)")


@dataclass
class Speed:
    """What was measured of one answer: seconds to the first token, seconds after it, and tokens."""

    first_s: float = 0.0
    rest_s: float = 0.0
    num_tokens: int = 0


def wait_until_ready(server: subprocess.Popen[str]) -> str:
    """Return the server's address, passing on what it says meanwhile.

    Raises:
        RuntimeError: it ended before it was ready.
    """
    assert server.stderr is not None
    for line in server.stderr:
        print(line, end="", file=sys.stderr)
        if found := READY.search(line):
            return found[1]
    raise RuntimeError(f"the server ended with exit code {server.wait()} before it was ready")


def stream_events(address: str, body: dict[str, object]) -> Iterator[dict[str, Any]]:
    """Yield the events of one streamed completion.

    Raises:
        RuntimeError: the server answers with an error, or ends the stream without saying that it is done.
    """
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=START_LIMIT_S)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"the server answered {response.status}: {response.read().decode()}")
    for raw in response:
        line = raw.decode().strip()
        if line == "data: [DONE]":
            connection.close()
            return
        if line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(f"the server broke off: {event['error']}")
            yield event
    raise RuntimeError("the stream ended early")


def ask(address: str) -> Speed:
    """Print one answer while it arrives and return how fast it came."""
    body: dict[str, object] = {
        "model": first_model(address),
        "prompt": PROMPT,
        "max_tokens": 120,
        "temperature": 0.7,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    speed, began_s = Speed(), time.perf_counter()
    print(f"\n{PROMPT}", end="", flush=True)
    for event in stream_events(address, body):
        now_s = time.perf_counter()
        for choice in event.get("choices", []):
            speed.first_s = speed.first_s or now_s - began_s
            print(choice.get("text", ""), end="", flush=True)
        if usage := event.get("usage"):
            speed.num_tokens = usage["completion_tokens"]
        speed.rest_s = now_s - began_s - speed.first_s
    print("\n")
    return speed


def first_model(address: str) -> str:
    """Return the name of the model that the server offers."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=START_LIMIT_S)
    connection.request("GET", "/v1/models")
    name: str = json.loads(connection.getresponse().read())["data"][0]["id"]
    connection.close()
    return name


def main() -> int:
    """Run the demo and return the exit code."""
    command = [sys.executable, "-m", "penstock", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            speed = ask(wait_until_ready(server))
        except (RuntimeError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            server.kill()
            return 1
        except BaseException:
            server.kill()
            raise
        server.send_signal(signal.SIGTERM)
        code = server.wait(STOP_LIMIT_S)
    rate = (speed.num_tokens - 1) / speed.rest_s if speed.num_tokens > 1 and speed.rest_s > 0 else 0.0
    print(f"TTFT {1000 * speed.first_s:.1f} ms, {rate:.0f} tok/s over {speed.num_tokens} tokens")
    return code if speed.num_tokens else 1


if __name__ == "__main__":
    sys.exit(main())
