"""A server whose true latencies are known: an ASGI app that answers to a script within the prompt, to the millisecond.

The prompt is a JSON object of Script's fields. Every time that it really sent something is logged on the system-wide
monotonic clock, in `GET /log`, so that a test can tell a slow machine from a wrong client. It runs in a process of its
own: `with Stub() as stub: stub.url`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import uvicorn

SPIN_S = 0.0015


@dataclass(frozen=True)
class Script:
    """What one answer does; times in milliseconds from the receipt of the request."""

    first_ms: float = 0.0
    gap_ms: float = 0.0
    chunks: int = 1
    per_chunk: int = 1  # tokens
    empty_first: bool = False  # a chunk without text goes out at once
    silent_last: bool = False  # the last token shows nothing: only the finish, a gap after the last text
    usage: bool = True
    prompt_tokens: int = 5
    cached_tokens: int = 0
    status: int = 200
    retry_after: str | None = None
    error_after: int | None = None  # an error event after so many chunks
    break_after: int | None = None  # the connection breaks after so many chunks
    done: bool = True  # whether [DONE] and a finish_reason come
    pieces: int = 0  # cuts each event into so many writes
    crlf: bool = False
    alone: bool = False  # one such request at a time, first come first served
    tag: int = 0  # to find it again in the log

    @property
    def prompt(self) -> str:
        return json.dumps(asdict(self))

    @property
    def tokens(self) -> int:
        return self.chunks * self.per_chunk + self.silent_last


async def sleep_until(due: float) -> None:
    """Wakes at a time of the monotonic clock, within microseconds on an idle machine."""
    await asyncio.sleep(max(0.0, due - time.monotonic() - SPIN_S))
    while time.monotonic() < due:
        await asyncio.sleep(0)


class App:
    """The ASGI app."""

    def __init__(self) -> None:
        self.log: list[dict[str, Any]] = []
        self.turn = asyncio.Lock()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"] == "/log":
            await whole(send, 200, self.log)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        entry: dict[str, Any] = {"received": time.monotonic(), "sent": []}
        self.log.append(entry)
        await Answer(scope, json.loads(body), send, entry).run(self.turn)


class Answer:
    """One answer to one request."""

    def __init__(self, scope: dict[str, Any], request: dict[str, Any], send: Any, entry: dict[str, Any]) -> None:
        self.chat = scope["path"].endswith("chat/completions")
        self.request = request
        self.send = send
        self.entry = entry
        entry["request"] = request
        prompt = request["messages"][-1]["content"] if self.chat else request["prompt"]
        self.script = Script(**json.loads(prompt))
        entry["tag"] = self.script.tag

    async def run(self, turn: asyncio.Lock) -> None:
        if self.script.alone:
            async with turn:
                await self.answer(time.monotonic())
        else:
            await self.answer(self.entry["received"])

    async def answer(self, begun: float) -> None:
        script = self.script
        if script.status != 200:
            headers = [(b"retry-after", script.retry_after.encode())] if script.retry_after else []
            headers.append((b"date", b"Sat, 01 Aug 2026 10:00:00 GMT"))
            await sleep_until(begun + script.first_ms / 1e3)
            await whole(self.send, script.status, {"error": {"message": f"scripted {script.status}"}}, headers)
        elif self.request.get("stream"):
            await self.stream(begun)
        else:
            await sleep_until(begun + (script.first_ms + script.gap_ms * (script.chunks - 1)) / 1e3)
            self.entry["sent"].append(time.monotonic())
            await whole(self.send, 200, {"choices": [self.choice("x" * script.chunks, "length")], "usage": self.usage})

    async def stream(self, begun: float) -> None:
        script = self.script
        headers = [(b"content-type", b"text/event-stream"), (b"x-stub", b"1")]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        if script.empty_first:
            await self.event({"choices": [self.choice("", None)]})
        for index in range(script.chunks):
            await sleep_until(begun + (script.first_ms + script.gap_ms * index) / 1e3)
            if script.break_after == index:
                raise ConnectionResetError("scripted")
            if script.error_after == index:
                await self.event({"error": {"message": "scripted error"}})
                break
            self.entry["sent"].append(time.monotonic())
            await self.event({"choices": [self.choice(f"w{index} ", None)]})
        if script.silent_last:
            await sleep_until(begun + (script.first_ms + script.gap_ms * script.chunks) / 1e3)
            self.entry["sent"].append(time.monotonic())
        if script.done:
            await self.event({"choices": [self.choice("", "length")]})
            if script.usage and self.request["stream_options"]["include_usage"]:
                await self.event({"choices": [], "usage": self.usage})
            await self.write(b"data: [DONE]\n\n")
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    @property
    def usage(self) -> dict[str, Any]:
        script = self.script
        return {
            "prompt_tokens": script.prompt_tokens,
            "completion_tokens": script.tokens,
            "prompt_tokens_details": {"cached_tokens": script.cached_tokens},
        }

    def choice(self, text: str, finish: str | None) -> dict[str, Any]:
        if not self.chat:
            return {"index": 0, "text": text, "finish_reason": finish}
        part = "delta" if self.request.get("stream") else "message"
        return {"index": 0, part: {"content": text}, "finish_reason": finish}

    async def event(self, data: dict[str, Any]) -> None:
        await self.write(b"data: " + json.dumps(data).encode() + b"\n\n")

    async def write(self, data: bytes) -> None:
        if self.script.crlf:
            data = data.replace(b"\n", b"\r\n")
        size = -(-len(data) // self.script.pieces) if self.script.pieces else len(data)
        for at in range(0, len(data), size):
            await self.send({"type": "http.response.body", "body": data[at : at + size], "more_body": True})
            if self.script.pieces:
                await asyncio.sleep(0)


async def whole(send: Any, status: int, data: Any, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    """Answers with a JSON document."""
    body = json.dumps(data).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


class Stub:
    """The server in a process of its own, from entry to exit."""

    url = ""

    def __enter__(self) -> Stub:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(512)
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            command = [sys.executable, __file__, str(listener.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL)
        self.log()  # waits until it answers
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait(10)

    def log(self) -> list[dict[str, Any]]:
        """What it really did, in order of receipt."""
        with urllib.request.urlopen(f"{self.url}/log", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return found


def main() -> None:
    """Serves on the listening socket whose descriptor is the argument."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config(App(), log_level="critical", access_log=False, loop="asyncio", timeout_keep_alive=60)
    server = uvicorn.Server(config)
    asyncio.run(server.serve(sockets=[listener]))


if __name__ == "__main__":
    main()
