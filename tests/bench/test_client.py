"""The client against raw sockets that behave and misbehave, byte by byte."""

import asyncio
import errno
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from penstock.bench.client import Client, Endpoint, Route, request_body
from penstock.bench.records import Ask, Outcome, Seen
from penstock.core import ConfigError

ASK = Ask(0, 0.0, "Once", None, 4)
EVENTS = b'data: {"choices": [{"text": "a", "finish_reason": "length"}]}\n\ndata: [DONE]\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
GOOD = HEAD + b"Content-Length: %d\r\n\r\n" % len(EVENTS) + EVENTS
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, dict[str, Any]]:
    head = await reader.readuntil(b"\r\n\r\n")
    size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    return head, json.loads(await reader.readexactly(size))


def answering(*answers: bytes | None, close: bool = False) -> Handler:
    """Answers the requests of each connection in turn; None closes it without a word."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await read_request(reader)
            if answer is None:
                writer.close()
                return
            writer.write(answer)
            await writer.drain()
        if not close:
            await reader.read()
        writer.close()

    return handle


def exchange(handler: Handler, count: int = 1, **fields: Any) -> tuple[list[Seen], Client]:
    """What a client sees of so many requests, one after the other."""

    async def scenario() -> tuple[list[Seen], Client]:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = Client(Endpoint(url, "m", **({"timeout_s": 5.0} | fields)), time.monotonic)
        found = []
        for index in range(count):
            found.append(Seen(index, 0.0))
            await client.send(client.request(ASK), found[-1])
        client.close()
        server.close()
        await asyncio.sleep(0.01)  # handlers see the end of their connections
        return found, client

    return asyncio.run(scenario())


def test_connections_are_kept() -> None:
    found, client = exchange(answering(GOOD, GOOD, GOOD), count=3)
    assert [one.outcome for one in found] == [Outcome.OK] * 3
    assert client.num_opened == 1
    assert found[0].connect_s > 0 and found[1].connect_s == 0
    for one in found:
        assert one.sent_s is not None and one.headers_s is not None and one.end_s is not None
        assert one.sent_s < one.headers_s <= one.chunks_s[0] <= one.end_s


def test_a_connection_that_says_close_is_not_kept() -> None:
    last = GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    found, client = exchange(answering(last), count=2)
    assert [one.outcome for one in found] == [Outcome.OK] * 2
    assert client.num_opened == 2 and client.num_retried == 0


def test_a_kept_connection_that_closes_under_a_request_is_not_its_failure() -> None:
    found, client = exchange(answering(GOOD, None), count=2)
    assert [one.outcome for one in found] == [Outcome.OK] * 2
    assert (client.num_opened, client.num_retried) == (2, 1)


def test_a_new_connection_that_closes_is() -> None:
    (seen,), client = exchange(answering(None))
    assert (seen.outcome, client.num_retried) == (Outcome.FAILED, 0)
    assert seen.error is not None and "without an answer" in seen.error and seen.end_s is not None


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (HEAD + b"\r\n" + EVENTS, Outcome.OK),  # the end of the connection ends the body
        (HEAD + b"\r\n" + EVENTS[:-14], Outcome.OK),  # without [DONE], but with its finish
        (HEAD + b"\r\n" + EVENTS[:20], Outcome.FAILED),
        (HEAD + b"Content-Length: 999\r\n\r\n" + EVENTS[:70], Outcome.FAILED),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + GOOD, Outcome.OK),
        (b"SSH-2.0-OpenSSH_9.0\r\n", Outcome.FAILED),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", Outcome.FAILED),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", Outcome.FAILED),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", Outcome.FAILED),
    ],
)
def test_what_a_server_may_send(answer: bytes, outcome: Outcome) -> None:
    (seen,), _ = exchange(answering(answer, close=True))
    assert seen.outcome is outcome, seen.error
    assert seen.end_s is not None


def test_chunked_bodies_cut_anywhere() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        data = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        data += b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (EVENTS[:30], EVENTS[30:])) + b"0\r\n\r\n"
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await asyncio.sleep(0)
        await reader.read()
        writer.close()

    (seen,), _ = exchange(handle)
    assert (seen.outcome, len(seen.chunks_s)) == (Outcome.OK, 1)


def test_a_time_out_gives_up_and_keeps_what_came() -> None:
    half = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (64, EVENTS[:62] + b"\n\n")
    (seen,), client = exchange(answering(half), timeout_s=0.3)
    assert seen.outcome is Outcome.TIMEOUT and len(seen.chunks_s) == 1
    assert seen.sent_s is not None and seen.end_s is not None and 0.25 < seen.end_s - seen.sent_s < 2.0
    assert not client._kept


def test_bytes_that_nobody_asked_for_end_a_kept_connection() -> None:
    found, client = exchange(answering(GOOD + b"HTTP/1.1 200 OK\r\n\r\n", GOOD), count=2)
    assert [one.outcome for one in found] == [Outcome.OK] * 2
    assert client.num_opened == 2


def test_nobody_there() -> None:
    async def scenario() -> Seen:
        client = Client(Endpoint("http://127.0.0.1:9", "m"), time.monotonic)
        seen = Seen(0, 0.0)
        await client.send(client.request(ASK), seen)
        with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9.*hint"):
            await client.warm(1)
        return seen

    seen = asyncio.run(scenario())
    assert (seen.outcome, seen.sent_s) == (Outcome.FAILED, None) and "no connection" in (seen.error or "")


def test_a_machine_out_of_descriptors_blames_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> tuple[Seen, Client]:
        async def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", refuse)
        client = Client(Endpoint("http://127.0.0.1:9", "m"), time.monotonic)
        seen = Seen(0, 0.0)
        await client.send(client.request(ASK), seen)
        return seen, client

    seen, client = asyncio.run(scenario())
    assert (seen.outcome, client.num_own_faults) == (Outcome.FAILED, 1)


def test_a_cancelled_request_is_unfinished() -> None:
    async def scenario() -> Seen:
        server = await asyncio.start_server(answering(b"", close=False), "127.0.0.1", 0)
        client = Client(Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "m"), time.monotonic)
        seen = Seen(0, 0.0)
        task = asyncio.create_task(client.send(client.request(ASK), seen))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.close()
        await asyncio.sleep(0.01)
        return seen

    seen = asyncio.run(scenario())
    assert seen.outcome is Outcome.UNFINISHED and seen.end_s is not None


def test_what_is_sent() -> None:
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = await read_request(reader)
        heads.append(head)
        assert body["prompt"] == "Once"
        writer.write(GOOD)
        await reader.read()
        writer.close()

    (seen,), client = exchange(handle, api_key="secret")
    assert seen.outcome is Outcome.OK
    assert heads[0].startswith(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"Authorization: Bearer secret\r\n" in heads[0]
    assert "secret" not in repr(client.endpoint)


def test_bodies_of_both_routes() -> None:
    endpoint = Endpoint("http://h", "m", body={"temperature": 0.0, "ignore_eos": None, "seed": 3})
    assert request_body(endpoint, ASK) == {
        "model": "m",
        "prompt": "Once",
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        "seed": 3,
    }
    chat = Endpoint("http://h", "m", route=Route.CHAT, stream=False, body={})
    messages = ({"role": "user", "content": "Once"},)
    expected = {"model": "m", "messages": list(messages), "max_tokens": 4, "stream": False, "ignore_eos": True}
    assert request_body(chat, ASK) == expected
    as_messages = Ask(0, 0.0, messages, None, 4)
    assert request_body(chat, as_messages) == expected | {"messages": messages}
    assert request_body(endpoint, Ask(0, 0.0, (1, 2), None, 4))["prompt"] == (1, 2)
    with pytest.raises(ConfigError, match="no messages"):
        request_body(endpoint, as_messages)
    with pytest.raises(ConfigError, match="no token ids"):
        request_body(chat, Ask(0, 0.0, (1, 2), None, 4))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://h", "/v1"),
        ("http://h:8000/", "/v1"),
        ("https://h/api/v1/", "/api/v1"),
        ("http://[::1]:80", "/v1"),
    ],
)
def test_urls(url: str, path: str) -> None:
    assert Endpoint(url, "m").parts.path == path
    Client(Endpoint(url, "m"), time.monotonic)


@pytest.mark.parametrize(
    "url", ["h:8000", "ftp://h", "http://", "http://h:x", "http://h:0", "http://h/?a", "http://u@h"]
)
def test_urls_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="hint"):
        Client(Endpoint(url, "m"), time.monotonic)


@pytest.mark.parametrize("key", ["a\r\nX: y", "ä"])
def test_keys_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="key") as caught:
        Client(Endpoint("http://h", "m", api_key=key), time.monotonic)
    assert key not in str(caught.value)
