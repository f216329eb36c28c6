"""A scripted engine, a byte tokenizer and a real server on a loopback port, for every test of the HTTP surface."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import openai
import pytest
import uvloop

from penstock.api import ApiSettings, ServedModel, create_app
from penstock.api.server import ApiServer, base_url, bind
from penstock.core import (
    Draining,
    Event,
    Finish,
    FinishReason,
    InvalidRequest,
    SamplingParams,
    Snapshot,
    Timing,
    TokenLogprobs,
    Usage,
)
from penstock.text.chat import check_options
from penstock.text.messages import check_messages, check_tools

BOS, EOS, VOCAB = 256, 257, 258


class ByteTokenizer:
    """One id a byte; 256 and 257 are control tokens spelled <bos> and <eos>."""

    vocab_size = VOCAB
    bos_token_id = BOS
    eos_token_ids = (EOS,)
    max_token_bytes = 1
    chat_template = object()

    def encode(self, text, *, add_special_tokens=True, allow_special=False):
        return ((BOS,) if add_special_tokens else ()) + tuple(text.encode())

    def decode(self, ids, skip_special_tokens=True):
        names = {BOS: b"<bos>", EOS: b"<eos>"}
        if skip_special_tokens:
            names = {BOS: b"", EOS: b""}
        return b"".join(names.get(i, bytes([i & 255])) for i in ids).decode("utf-8", "replace")

    def token_bytes(self, token):
        return bytes([token]) if token < 256 else b""

    def token_text(self, token):
        return self.token_bytes(token).decode("utf-8", "replace")

    def encode_chat(
        self,
        messages,
        *,
        tools=None,
        add_generation_prompt=True,
        continue_final_message=False,
        kwargs=None,
        max_tokens=None,
    ):
        check_options(kwargs or {})
        parts = [f"tools: {','.join(tool['function']['name'] for tool in check_tools(tools))}\n"] if tools else []
        for message in check_messages(messages):
            content = message.get("content") or ""
            if content == "template says no":
                raise InvalidRequest("the template says no.", param="messages")
            text = content if isinstance(content, str) else "".join(part["text"] for part in content)
            calls = [call["function"] for call in message.get("tool_calls", ())]
            text += "".join(f"[{call['name']} {call['arguments'].text}]" for call in calls)
            parts.append(f"{message['role']}: {text}\n")
        if continue_final_message:
            parts[-1] = parts[-1][:-1]
        ids = list("".join(parts).encode())
        if kwargs:
            ids += json.dumps(kwargs).encode()
        return (BOS, *ids, *(b"assistant:" if add_generation_prompt else b""))


@dataclass
class ScriptedEngine:
    """Answers with the reversed prompt, one token a step; every misfortune can be switched on."""

    delay_s: float = 0.0
    first_delay_s: float = 0.0
    fail_after: int | None = None
    error: Exception | None = None
    submit_error: Exception | None = None
    dead: bool = False
    stuck_at_s: float | None = None
    script: str | None = None
    tokens_per_event: int = 1
    requests: list = field(default_factory=list)
    cancelled: dict = field(default_factory=dict)
    finished: list = field(default_factory=list)
    draining: bool = False

    def submit(self, request):
        if self.submit_error is not None:
            raise self.submit_error
        if self.draining:
            raise Draining("draining.")
        self.requests.append(request)
        return ScriptedStream(self, request)

    def cancel(self, request_id):
        self.cancelled.setdefault(request_id, time.monotonic())

    def drain(self):
        self.draining = True

    def close(self, grace_s=0.0):
        self.draining = True

    def snapshot(self):
        now = time.monotonic()
        running = len(self.requests) - len(self.finished) - len(self.cancelled)
        return Snapshot(
            now, 7, now if self.stuck_at_s is None else self.stuck_at_s, running, 0, 0.0, 100, 60, 15, 25, 1000, 400, 3,
            5, 2, 1, 600, 70, draining=self.draining, dead=self.dead,
        )  # fmt: skip

    def output(self, request):
        if self.script is not None:
            return tuple(self.script.encode())
        return tuple(t for t in reversed(request.prompt_tokens) if t < 256) or (65,)


class ScriptedStream:
    def __init__(self, engine, request):
        self.engine, self.request = engine, request

    async def __aiter__(self):
        engine, request = self.engine, self.request
        n = request.sampling.n
        output = engine.output(request)
        limit = request.sampling.max_tokens or 1000
        done = [0] * n
        decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(n)]
        await asyncio.sleep(engine.first_delay_s)
        step = 0
        while min(done) >= 0:
            if request.id in engine.cancelled:
                return
            if engine.fail_after is not None and step >= engine.fail_after:
                yield (Event(0, (), "", error=engine.error),)
                return
            yield tuple(self.event(s, done, output, limit, decoders[s]) for s in range(n))
            step += 1
            await asyncio.sleep(engine.delay_s)
        engine.finished.append(request.id)

    def event(self, s, done, output, limit, decoder):
        sampling = self.request.sampling
        first = done[s] == 0
        count = min(self.engine.tokens_per_event, limit - done[s])
        tokens = tuple(output[i] for i in range(done[s], min(done[s] + count, len(output))))
        done[s] += len(tokens)
        at_end = done[s] >= len(output)
        finish = None
        if at_end or done[s] >= limit:
            reason = FinishReason.STOP if at_end else FinishReason.LENGTH
            usage = Usage(len(self.request.prompt_tokens), done[s], 3)
            timing = Timing(self.request.arrival_s, self.request.arrival_s + 0.01, self.request.arrival_s + 0.02,
                            self.request.arrival_s + 0.05, 0)  # fmt: skip
            finish = Finish(reason, EOS if at_end else None, usage, timing)
            done[s] = -1
        text = decoder.decode(bytes(tokens), final=finish is not None)
        logprobs = tuple(scored(t, sampling.logprobs) for t in tokens) if sampling.logprobs is not None else None
        prompt = None
        if first and s == 0 and sampling.prompt_logprobs is not None:
            ids = self.request.prompt_tokens
            prompt = (None, *(scored(t, sampling.prompt_logprobs) for t in ids[1:]))
        return Event(s, tokens, text, logprobs, prompt, finish)


def scored(token, count):
    return TokenLogprobs(token, -0.5, 1, tuple(((token + k) % 128, -0.5 - k if k < 2 else float("-inf"))
                                              for k in range(count)))  # fmt: skip


@dataclass
class RunningServer:
    """A server in a thread of its own."""

    url: str
    engine: ScriptedEngine
    server: ApiServer
    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=20, verify=False))

    @property
    def address(self):
        parts = httpx.URL(self.url)
        return parts.host, parts.port

    def client(self, **given):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=given.pop("api_key", "none"), max_retries=0, **given)

    def post(self, path, body, **given):
        return self.http.post(self.url + path, json=body, **given)

    def get(self, path, **given):
        return self.http.get(self.url + path, **given)

    def complete(self, **given):
        return self.post("/v1/completions", {"model": "toy", "prompt": "abc", "max_tokens": 4, **given})

    def raw(self, data, wait_s=5.0):
        """The whole answer to raw bytes."""
        with socket.create_connection(self.address, timeout=wait_s) as link:
            link.sendall(data)
            got = b""
            try:
                while part := link.recv(65536):
                    got += part
            except (TimeoutError, ConnectionResetError):
                pass
            return got

    def stop(self):
        self.http.close()
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.server.begin_drain)
        self.thread.join(10)
        assert not self.thread.is_alive()


@contextmanager
def server_starter():
    """Gives a function that starts servers; they end with the block."""
    running = []

    def start(engine=None, settings=None, **model):
        engine = engine or ScriptedEngine()
        settings = replace(settings or ApiSettings(grace_s=0.2), port=0)
        given = {"aliases": ("gpt-toy",), "defaults": SamplingParams(), "details": {"tier": "toy"}, **model}
        served = ServedModel("toy", engine, ByteTokenizer(), 400, (EOS,), VOCAB, **given)
        app = create_app({"toy": served}, settings)
        listener = bind(settings)
        ready = threading.Event()
        server = ApiServer(app, settings, listener, lambda url: ready.set())
        loops = []

        async def main():
            loops.append(asyncio.get_running_loop())
            await server.run()

        def run():
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())

        url = base_url(listener)
        thread = threading.Thread(target=run)
        thread.start()
        assert ready.wait(10)
        one = RunningServer(url, engine, server, thread, loops[0])
        running.append(one)
        return one

    try:
        yield start
    finally:
        for one in running:
            one.stop()


@pytest.fixture
def start_server() -> Iterator:
    """Starts servers; each ends with the test."""
    with server_starter() as start:
        yield start


@pytest.fixture(scope="session")
def start_shared() -> Iterator:
    """Starts servers that live as long as the session."""
    with server_starter() as start:
        yield start


@pytest.fixture(scope="session")
def shared(start_shared) -> RunningServer:
    """One server for all tests that only ask it questions."""
    return start_shared()


@pytest.fixture
def server(start_server) -> RunningServer:
    """A server with everything at its default."""
    return start_server()


@pytest.fixture
def scripted():
    """The engine's class."""
    return ScriptedEngine


@pytest.fixture
def served():
    """A model that no server holds."""
    return ServedModel("toy", ScriptedEngine(), ByteTokenizer(), 400, (EOS,), VOCAB, aliases=("gpt-toy",))


@pytest.fixture
def frames():
    """The data of an SSE body, parsed; the end mark stays text."""

    def parse(text):
        data = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
        return [one if one == "[DONE]" else json.loads(one) for one in data]

    return parse


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
    """Starts `serve` in processes of their own; gives each with its URL."""
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
