"""Going down in order, in a process of its own; and addresses that cannot be listened on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from penstock.api import ApiSettings
from penstock.api.server import bind
from penstock.core import ConfigError

SCRIPT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("fakes", sys.argv[1])
fakes = importlib.util.module_from_spec(spec)
sys.modules["fakes"] = fakes
spec.loader.exec_module(fakes)
from penstock.api import ApiSettings, ServedModel, create_app, serve
engine = fakes.ScriptedEngine(script="z" * 300, delay_s=float(sys.argv[3]))
settings = ApiSettings(port=0, grace_s=float(sys.argv[2]))
app = create_app({"toy": ServedModel("toy", engine, fakes.ByteTokenizer(), 400, (257,), 258)}, settings)
code = serve(app, settings, lambda url: print(url, flush=True))
assert "torch" not in sys.modules and "transformers" not in sys.modules
print("code", code, "cancelled", len(engine.cancelled))
sys.exit(code)
"""


@pytest.fixture
def process():
    started = []

    def start(grace_s, delay_s):
        here = Path(__file__).parent
        one = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SCRIPT, str(here / "conftest.py"), str(grace_s), str(delay_s)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{here.parents[1] / 'src'}:{os.environ.get('PYTHONPATH', '')}"},
        )
        started.append(one)
        return one, one.stdout.readline().strip()

    yield start
    for one in started:
        one.kill()
        one.communicate()


def reader(url, got):
    body = {"model": "toy", "prompt": "x", "stream": True, "max_tokens": 300}
    with httpx.stream("POST", url + "/v1/completions", json=body, timeout=20) as answer:
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
