"""A client that goes away, against the real engine: its pages come back at once, and nobody else notices."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest
from tests.live_server import LiveServer

NAME = "penstock-bundled"


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer("--max-running", "4") as live:
        yield live


def metric(server: LiveServer, name: str) -> float:
    text = urllib.request.urlopen(f"{server.url}/metrics", timeout=5).read().decode()
    found = re.search(rf"^{name}\{{[^}}]*\}} ([0-9.e+-]+)$", text, re.M)
    assert found, f"{name} is not in /metrics"
    return float(found[1])


def ask(server: LiveServer, **body: object) -> socket.socket:
    """A connection that has sent a completion request and read nothing."""
    host, port = server.url.removeprefix("http://").split(":")
    payload = json.dumps({"model": NAME, "max_tokens": 490, "ignore_eos": True, "prompt": "The", **body}).encode()
    connection = socket.create_connection((host, int(port)), timeout=10)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    connection.sendall(head.encode() + f"Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
    return connection


def until(server: LiveServer, name: str, wanted: float, limit_s: float) -> float:
    """Seconds until a gauge has that value."""
    began = time.monotonic()
    while metric(server, name) != wanted:
        assert time.monotonic() - began < limit_s, f"{name} is {metric(server, name)} after {limit_s} s"
        time.sleep(0.005)
    return time.monotonic() - began


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_running_requests_of_a_client_that_left_free_their_pages(server: LiveServer, stream: bool) -> None:
    # n = 4 of the longest answers take far longer than the limit below, so the pages are not back by themselves.
    connection = ask(server, stream=stream, n=4)
    until(server, "penstock_requests_running", 4, 10)
    if stream:
        connection.recv(65536)
    connection.close()
    until(server, "penstock_requests_running", 0, 1.0)
    held = metric(server, "penstock_kv_pages_total_count") - metric(server, "penstock_kv_pages_free")
    assert held == metric(server, "penstock_kv_pages_cached")


def test_a_queued_request_of_a_client_that_left_never_runs(server: LiveServer) -> None:
    running = ask(server, stream=True, n=4)
    until(server, "penstock_requests_running", 4, 10)
    queued = ask(server, stream=True, prompt="Queued")
    until(server, "penstock_requests_waiting", 1, 5)
    queued.close()
    until(server, "penstock_requests_waiting", 0, 1.0)
    running.close()
    until(server, "penstock_requests_running", 0, 1.0)
