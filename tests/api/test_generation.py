"""Clients that go, engines that fail, silence: the engine is told, and the client hears."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from contextlib import contextmanager

import openai
import pytest

from penstock.api import ApiSettings
from penstock.api.chunks import PING
from penstock.api.generation import Writer
from penstock.core import DeadlineExceeded, EngineUnavailable, InvalidLogits, QueueFull


def post_bytes(path, body):
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    )
    return head.encode() + b"\r\n" + data


def wait_for(condition, limit_s=5.0):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s
        time.sleep(0.005)


@pytest.mark.parametrize("where", ["queued", "streaming", "whole", "many"])
def test_a_client_that_goes_is_cancelled_at_once(start_server, scripted, where):
    engine = scripted(delay_s=0.02, script="x" * 300, first_delay_s=60.0 if where == "queued" else 0.0)
    server = start_server(engine)
    prompt = ["a", "b", "c"] if where == "many" else "a"
    body = {"model": "toy", "prompt": prompt, "max_tokens": 300, "stream": where != "whole"}
    with socket.create_connection(server.address) as link:
        link.sendall(post_bytes("/v1/completions", body))
        if where in ("streaming", "many"):
            assert link.recv(1000).startswith(b"HTTP/1.1 200")
        wait_for(lambda: len(engine.requests) == (3 if where == "many" else 1))
        time.sleep(0.05)
        assert not engine.cancelled
        left = time.monotonic()
    wait_for(lambda: len(engine.cancelled) == len(engine.requests))
    assert max(engine.cancelled.values()) - left < 0.25
    assert set(engine.cancelled) == {request.id for request in engine.requests}
    assert 'finished_reason="abort"} ' + str(len(engine.requests)) in server.get("/metrics").text


def test_a_request_that_ends_well_is_not_cancelled(server):
    server.complete()
    assert list(server.complete(stream=True).iter_lines())
    assert not server.engine.cancelled


def test_a_failure_before_the_first_token_has_its_status(start_server, scripted):
    engine = scripted(fail_after=0, error=DeadlineExceeded("the deadline passed."))
    server = start_server(engine)
    for stream in (False, True):
        answer = server.complete(stream=stream)
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize(
    ("error", "code"),
    [(InvalidLogits("not a number."), "invalid_logits"), (EngineUnavailable("gone."), "engine_unavailable"),
     (RuntimeError("secret prompt text at /home/me"), "internal_error")],
)  # fmt: skip
def test_a_failure_in_a_stream_is_a_frame(start_server, scripted, frames, error, code):
    server = start_server(scripted(fail_after=2, error=error))
    got = frames(server.complete(stream=True).text)
    assert got[-1] == "[DONE]"
    assert got[-2]["error"]["code"] == code
    assert "secret" not in json.dumps(got[-2])
    assert "".join(frame["choices"][0]["text"] for frame in got[:-2]) == "cb"
    with pytest.raises(openai.APIError):
        list(server.client().completions.create(model="toy", prompt="abc", stream=True))
    assert server.complete().status_code in (500, 503)


def test_an_error_in_one_prompt_ends_the_request(start_server, scripted):
    server = start_server(scripted(fail_after=1, error=InvalidLogits("not a number."), delay_s=0.01))
    assert server.complete(prompt=["ab", "cd"]).status_code == 500
    assert len(server.engine.cancelled) == 2


def test_pressure_has_advice(start_server, scripted):
    server = start_server(scripted(submit_error=QueueFull("the queue is full.", retry_after_s=2.2)))
    answer = server.complete()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.json()["error"]["type"] == "rate_limit_error"


def test_silence_gets_comments(start_server, scripted):
    server = start_server(scripted(first_delay_s=0.5), ApiSettings(ping_s=0.1, grace_s=0.2))
    text = server.complete(stream=True).text
    assert text.count(": ping\n\n") >= 2
    assert text.startswith(": ping")
    client = server.client()
    parts = client.completions.create(model="toy", prompt="abc", stream=True)
    assert "".join(chunk.choices[0].text for chunk in parts) == "cba"


@contextmanager
def unread_stream(server, window=4096):
    """A client of 60 long outputs that reads nothing."""
    body = {"model": "toy", "prompt": ["a"] * 60, "max_tokens": 390, "stream": True}
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        link.connect(server.address)
        link.sendall(post_bytes("/v1/completions", body))
        wait_for(lambda: len(server.engine.requests) == 60)
        yield link


@pytest.mark.parametrize("ping_s", [0.1, 30.0])
def test_a_client_that_reads_nothing_is_cut_off(start_server, scripted, ping_s):
    settings = ApiSettings(slow_reader_s=0.4, ping_s=ping_s, grace_s=0.2)
    server = start_server(scripted(script="y" * 390, delay_s=0.0), settings)
    began = time.monotonic()
    with unread_stream(server) as link:
        wait_for(lambda: len(server.engine.cancelled) == 60)
        assert 0.4 <= time.monotonic() - began < 4.0
        got = b""
        while part := link.recv(65536):
            got += part
    assert not got.endswith(b"0\r\n\r\n") and b"[DONE]" not in got  # nothing that looks whole
    assert server.complete().status_code == 200


def test_a_client_that_reads_slowly_but_steadily_gets_everything(start_server, scripted):
    settings = ApiSettings(slow_reader_s=1.5, grace_s=0.2)
    server = start_server(scripted(script="y" * 390, delay_s=0.0), settings)
    got = b""
    with unread_stream(server, 65536) as link:
        began = time.monotonic()
        while not got.endswith(b"0\r\n\r\n"):
            part = link.recv(65536)
            assert part
            got += part
            time.sleep(0.05 if time.monotonic() - began < 4.0 else 0.0)  # far longer than a standstill may last
    assert b"data: [DONE]" in got and not server.engine.cancelled


def test_a_slow_reader_holds_up_nobody(start_server, scripted):
    server = start_server(scripted(script="y" * 390, delay_s=0.0))
    with unread_stream(server):
        time.sleep(0.3)
        began = time.monotonic()
        assert server.get("/health/live").status_code == 200
        assert server.complete().status_code == 200
        assert time.monotonic() - began < 2.0
        assert len(server.engine.finished) < 61  # the slow one's are still held back by its connection


class Connection:
    """A connection whose client takes bytes only when told to."""

    def __init__(self):
        self.inside = self.most = self.held = 0
        self.sent = []
        self.aborted_s = None
        self.room = asyncio.Event()

    async def send(self, message):
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.room.wait()
        await asyncio.sleep(0)
        self.sent.append(message.get("body", message["type"]))
        self.inside -= 1

    def abort(self):
        self.aborted_s = time.monotonic()
        self.room.set()

    def writer(self):
        return Writer(self.send, time.monotonic, self.abort, lambda: self.held)


def test_prompts_of_one_connection_write_in_turn():
    async def main():
        link = Connection()
        writer = link.writer()
        writes = [asyncio.ensure_future(writer.write(b"%d" % number)) for number in range(20)]
        await asyncio.sleep(0.01)
        link.room.set()
        await asyncio.gather(*writes)
        return link

    link = asyncio.run(main())
    assert link.most == 1
    assert link.sent == ["http.response.start", *(b"%d" % number for number in range(20))]


@pytest.mark.parametrize("steady", [True, False])
def test_bytes_that_leave_are_progress_though_no_write_ends(steady):
    async def main():
        link = Connection()
        link.held = 1_000_000
        writer = link.writer()
        watcher = asyncio.ensure_future(writer.watch(10.0, 1.0))
        began = time.monotonic()
        write = asyncio.ensure_future(writer.write(b"x"))
        while link.aborted_s is None and time.monotonic() - began < 3.0:
            await asyncio.sleep(0.02)
            link.held -= steady
        link.room.set()
        watcher.cancel()
        await asyncio.gather(write, watcher, return_exceptions=True)
        return link.aborted_s and link.aborted_s - began

    cut_s = asyncio.run(main())
    assert cut_s is None if steady else 1.0 <= cut_s < 2.5


def test_no_comment_goes_to_a_client_that_has_not_taken_what_waits():
    async def main(held):
        link = Connection()
        link.held = held
        link.room.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(link.writer().watch(0.05, 0.4), 2.0)
        return link

    stuck = asyncio.run(main(5))
    assert stuck.aborted_s is not None and not stuck.sent
    quiet = asyncio.run(main(0))
    assert quiet.aborted_s is None and PING in quiet.sent
