"""Raw bytes on the socket: bounds of heads, bodies and connections, and what the parser refuses."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from types import SimpleNamespace

import pytest

from penstock.api import ApiSettings, protocol
from penstock.core import limits

GOOD = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"


def status_of(answer):
    return int(answer.split(b" ")[1]) if answer else None


@pytest.fixture(autouse=True)
def good_afterwards(shared):
    yield
    assert shared.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (GOOD + b"".join(b"X-%d: y\r\n" % k for k in range(257)) + b"\r\n", 431),
        (GOOD + b"X: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (GOOD + b"X: " + b"y" * 3_000_000, 431),
        (b"GET /" + b"a" * 65_536 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (GOOD + b"X: a\r\n folded\r\n\r\n", 400),
        (GOOD + b"X: a\rb\r\n\r\n", 400),
        (GOOD + b"X y: a\r\n\r\n", 400),
        (b"GARBAGE\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            400,
        ),
        (
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            400,
        ),
    ],
    ids=range(13),
)
def test_heads_that_are_refused(shared, data, status):
    answer = shared.raw(data)
    assert status_of(answer) in (status, None if len(data) > 1_000_000 else status)
    if answer:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
        assert b"connection: close" in head.lower()


def test_a_head_at_the_limit_passes(shared):
    head = GOOD + b"Connection: close\r\nX: " + b"y" * 60_000 + b"\r\n"
    assert status_of(shared.raw(head + b"".join(b"X-%d: y\r\n" % k for k in range(120)) + b"\r\n")) == 200


def test_slow_heads_are_cut(start_server, monkeypatch):
    monkeypatch.setattr(protocol.limits, "MAX_HEADER_S", 0.3)
    server = start_server()
    for sent in (b"", b"GET /health/live HTTP/1.1\r\nHost: loc"):
        began = time.monotonic()
        answer = server.raw(sent)
        assert status_of(answer) == 400
        assert time.monotonic() - began < 2.0


def test_too_many_connections(start_server):
    server = start_server(settings=ApiSettings(max_connections=3, grace_s=0.2))
    links = [socket.create_connection(server.address) for _ in range(3)]
    time.sleep(0.2)
    answer = server.raw(GOOD + b"\r\n")
    assert answer == b"" or status_of(answer) == 503
    for link in links:
        link.close()
    time.sleep(0.2)
    assert server.get("/health/live").status_code == 200


def chunked(path, parts, extra=b""):
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n" % path
    yield head + extra + b"Transfer-Encoding: chunked\r\n\r\n"
    for part in parts:
        yield b"%x\r\n%s\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


def send_all(server, pieces):
    with socket.create_connection(server.address, timeout=10) as link:
        got = b""
        try:
            for piece in pieces:
                link.sendall(piece)
            while part := link.recv(65536):
                got += part
        except (ConnectionResetError, BrokenPipeError):
            link.settimeout(0.5)
            with contextlib.suppress(OSError):
                got += link.recv(65536)
        return got


def test_bodies_over_the_limit(shared):
    announced = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for length in (limits.MAX_BODY_BYTES + 1, 10**30):
        answer = shared.raw(announced + b"Content-Length: %d\r\n\r\n{" % length)
        assert status_of(answer) in (413, 400)
    parts = [b" " * 1_048_576] * 17
    assert status_of(send_all(shared, chunked(b"/v1/completions", parts))) in (413, None)


def test_a_body_in_drips_is_one_body(shared):
    body = b'{"model":"toy","prompt":"abc","max_tokens":4}'
    answer = send_all(shared, chunked(b"/v1/completions", [body[k : k + 1] for k in range(len(body))]))
    assert status_of(answer) == 200


@pytest.mark.parametrize(
    "headers",
    [{"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}, {"content-type": ""},
     {"content-type": "application/json", "content-encoding": "gzip"},
     {"content-type": "application/json", "content-encoding": "deflate"},
     {"content-type": "application/json; charset=utf-16"}, {"content-type": "multipart/form-data; boundary=x"}],
)  # fmt: skip
def test_other_media(shared, headers):
    answer = shared.http.post(shared.url + "/v1/completions", content=b"{}", headers=headers)
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_media_type"


def test_pipelined_requests_are_answered_in_order(shared):
    answer = shared.raw(GOOD + b"\r\nGET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.index(b'"ok"') < answer.index(b'"version"')
    assert answer.count(b"HTTP/1.1 200") == 2


class Transport:
    """Holds 7 bytes above a socket."""

    def __init__(self, link):
        self.link = link
        self.closing = False

    def is_closing(self):
        return self.closing

    def get_write_buffer_size(self):
        return 7

    def get_extra_info(self, name):
        return {"socket": self.link}[name]


def test_what_a_client_has_not_acknowledged_is_counted_down_to_the_kernel():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as near:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        with far:
            held = SimpleNamespace(transport=Transport(far))
            assert protocol.BoundedProtocol.unsent_bytes(held) == 7
            far.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    far.send(b"x" * 65536)
            full = protocol.BoundedProtocol.unsent_bytes(held)
            assert full > 7
            near.recv(65536)
            near.recv(65536)
            time.sleep(0.3)
            assert 7 < protocol.BoundedProtocol.unsent_bytes(held) < full
            held.transport.closing = True
            assert protocol.BoundedProtocol.unsent_bytes(held) == 0
