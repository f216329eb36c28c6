"""Going down in order, in a process of its own; and addresses that cannot be listened on."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time

import httpx
import pytest

from penstock.api import ApiSettings
from penstock.api.server import bind
from penstock.core import ConfigError


def reader(url, got):
    body = {"model": "toy", "prompt": "x", "stream": True, "max_tokens": 300}
    with (
        contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError),  # a server that ends at once
        httpx.stream("POST", url + "/v1/completions", json=body, timeout=20) as answer,
    ):
        for line in answer.iter_lines():
            got.append(line)


def running_stream(url):
    got = []
    thread = threading.Thread(target=reader, args=(url, got))
    thread.start()
    while len(got) < 5:
        time.sleep(0.01)
    return thread, got


def data(got):
    return [line[6:] for line in got if line.startswith("data: ")]


def test_running_requests_finish_and_new_ones_are_refused(process):
    one, url = process(10, 0.005)
    thread, got = running_stream(url)
    one.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 2
    while (ready := httpx.get(url + "/health/ready")).status_code != 503 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ready.status_code == 503 and ready.json()["models"]["toy"]["status"] == "draining"
    assert httpx.get(url + "/health/live").status_code == 200
    refused = httpx.post(url + "/v1/completions", json={"model": "toy", "prompt": "x"})
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "draining"
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    assert refused.headers["connection"] == "close"
    thread.join(20)
    assert data(got)[-1] == "[DONE]"
    assert json.loads(data(got)[-2])["choices"][0]["finish_reason"] == "stop"
    out, err = one.communicate(timeout=10)
    assert (one.returncode, out, err) == (0, "code 0 cancelled 0\n", "")


def test_what_outlives_the_grace_gets_an_error_frame(process):
    one, url = process(0.3, 0.05)
    thread, got = running_stream(url)
    one.send_signal(signal.SIGINT)
    thread.join(10)
    assert data(got)[-1] == "[DONE]"
    assert json.loads(data(got)[-2])["error"]["code"] == "draining"
    out, err = one.communicate(timeout=10)
    assert (one.returncode, out, err) == (0, "code 0 cancelled 1\n", "")


def test_a_second_signal_ends_it_at_once(process):
    one, url = process(60, 0.05)
    thread, got = running_stream(url)
    one.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert one.poll() is None
    began = time.monotonic()
    one.send_signal(signal.SIGTERM)
    assert one.wait(5) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 1.0
    thread.join(10)
    assert "[DONE]" not in data(got)


def test_an_idle_server_ends_soon(process):
    one, _ = process(60, 0.0)
    began = time.monotonic()
    one.send_signal(signal.SIGTERM)
    assert one.wait(10) == 0
    assert time.monotonic() - began < 3.0


def test_a_taken_port_and_an_unknown_host():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="cannot listen"):
        bind(ApiSettings(port=taken.getsockname()[1]))
    with pytest.raises(ConfigError, match=r"no\.such\.host\.invalid"):
        bind(ApiSettings(host="no.such.host.invalid"))
