"""Bodies: kinds, bounds by count and not by promise, memory given back, and a peak that stays near the limit."""

from __future__ import annotations

import asyncio
import http.client
import re
from pathlib import Path

import pytest
from starlette.requests import Request as HttpRequest

from penstock.api import ApiSettings, create_app
from penstock.api.body import read_body
from penstock.api.generation import ClientGone
from penstock.core import Overloaded, PayloadTooLarge, PenstockError, UnsupportedMedia, limits


@pytest.fixture
def read(served):
    state = create_app({"toy": served}, ApiSettings(max_body_bytes_in_flight=2 * limits.MAX_BODY_BYTES)).state.api

    def read(parts, **headers):
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        messages[-1]["more_body"] = False
        if parts[-1] is None:
            messages[-1] = {"type": "http.disconnect"}
        given = {"content_type": "application/json", **headers}
        listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]

        async def receive():
            return messages.pop(0)

        async def whole():
            async with read_body(state, HttpRequest({"type": "http", "headers": listed}, receive)) as body:
                return body

        try:
            return asyncio.run(whole())
        finally:
            state.hold_body(2 * limits.MAX_BODY_BYTES)  # everything was given back, or this is refused
            state.hold_body(-2 * limits.MAX_BODY_BYTES)

    yield read
    state.workers.close()


def test_parts_are_joined(read):
    assert read([b"ab", b"", b"c"]) == b"abc"
    assert read([b"{}"], content_type='Application/JSON; charset="UTF-8"') == b"{}"


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"content_type": "application/json; charset=latin-1"},
        {"content_encoding": "gzip"},
        {"content_encoding": "deflate, gzip"},
    ],
)
def test_other_kinds_are_refused(read, headers):
    with pytest.raises(UnsupportedMedia):
        read([b"{}"], **headers)


@pytest.mark.parametrize("promise", ["5", str(limits.MAX_BODY_BYTES + 1), "9" * 5000])
def test_too_much_is_refused_whatever_was_promised(read, promise):
    half = b"x" * (limits.MAX_BODY_BYTES // 2)
    with pytest.raises(PayloadTooLarge):
        read([half, half, b"x", b"more"], content_length=promise)


def test_the_limit_itself_is_taken(read):
    assert len(read([b"x" * limits.MAX_BODY_BYTES])) == limits.MAX_BODY_BYTES


def test_a_client_that_goes_leaves_nothing_counted(read):
    with pytest.raises(ClientGone):
        read([b"abc", None])


def test_other_bodies_fill_the_memory_set_aside(served):
    state = create_app({"toy": served}, ApiSettings(max_body_bytes_in_flight=10)).state.api
    headers = [(b"content-type", b"application/json")]

    async def receive():
        return {"type": "http.request", "body": b"123456", "more_body": False}

    async def two():
        async with read_body(state, HttpRequest({"type": "http", "headers": headers}, receive)):
            with pytest.raises(Overloaded):
                async with read_body(state, HttpRequest({"type": "http", "headers": headers}, receive)):
                    raise AssertionError("the second body fits")

    asyncio.run(two())
    state.hold_body(10)
    state.workers.close()


def test_a_slow_body_ends(monkeypatch, served):
    monkeypatch.setattr(limits, "MAX_BODY_S", 0.05)
    state = create_app({"toy": served}, ApiSettings()).state.api
    scope = {"type": "http", "headers": [(b"content-type", b"application/json")]}

    async def never():
        await asyncio.sleep(60)

    async def wait():
        async with read_body(state, HttpRequest(scope, never)):
            raise AssertionError("a body came from nowhere")

    with pytest.raises(PenstockError) as caught:
        asyncio.run(wait())
    assert (caught.value.status, caught.value.code) == (400, "body_timeout")
    state.workers.close()


def peak_bytes(pid):
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_floods_of_too_large_bodies_grow_memory_by_less_than_twice_the_limit(process):
    one, url = process(5, 0.0)
    address = url.removeprefix("http://")
    part = b"x" * (1 << 20)

    def flood(count):
        link = http.client.HTTPConnection(address, timeout=20)
        link.putrequest("POST", "/v1/completions")
        link.putheader("Content-Type", "application/json")
        link.putheader("Transfer-Encoding", "chunked")
        link.endheaders()
        try:
            for _ in range(count):
                link.send(b"%x\r\n" % len(part) + part + b"\r\n")
            link.send(b"0\r\n\r\n")
        except OSError:  # the server answered and closed
            pass
        try:
            return link.getresponse().status
        except OSError:
            return 413  # reset before the answer was read
        finally:
            link.close()

    assert flood(1) == 400
    before = peak_bytes(one.pid)
    for _ in range(6):
        assert flood(2 * limits.MAX_BODY_BYTES // len(part)) == 413
    assert peak_bytes(one.pid) - before < 2 * limits.MAX_BODY_BYTES
    assert flood(1) == 400
