"""Counting tokens: here, and by servers of either dialect, live over HTTP."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from penstock.bench import counters
from penstock.bench.client import Endpoint
from penstock.bench.counters import LocalCounter, ServerCounter, disagreement
from penstock.core import ConfigError
from penstock.text import Tokenizer, load_tokenizer

BUNDLED = Path(__file__).parents[2] / "src/penstock/models/bundled"
MESSAGES = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(BUNDLED)


@contextmanager
def server(answer) -> Iterator[tuple[str, list]]:
    """Answers each POST with (status, bytes) of `answer(path, body)`; yields its URL and what it was asked."""
    asked: list = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append((self.path, body, self.headers.get("authorization")))
            status, data = answer(self.path, body)
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}", asked
        finally:
            http.shutdown()
            thread.join()


def by_prompt(tokenizer: Tokenizer):
    """As penstock and vLLM answer."""

    def answer(path: str, body: dict) -> tuple[int, bytes]:
        if path != "/tokenize" or ("prompt" in body) == ("messages" in body):
            return 400, b'{"error": {"message": "no"}}'
        if "prompt" in body:
            ids = tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"])
        else:
            ids = tokenizer.encode_chat(body["messages"])
        return 200, json.dumps({"count": len(ids), "tokens": ids, "max_model_len": 99}).encode()

    return answer


def by_content(tokenizer: Tokenizer):
    """As llama-server answers: it says nothing about fields that it doesn't know."""

    def answer(path: str, body: dict) -> tuple[int, bytes]:
        if path == "/apply-template":
            return 200, json.dumps({"prompt": f"<|user|>{body['messages'][0]['content']}"}).encode()
        ids = tokenizer.encode(body.get("content", ""), add_special_tokens=body.get("add_special", False))
        return 200, json.dumps({"tokens": ids if "content" in body else []}).encode()

    return answer


def test_a_server_that_takes_prompts_counts_as_its_tokenizer(tokenizer: Tokenizer) -> None:
    local = LocalCounter(tokenizer)
    with server(by_prompt(tokenizer)) as (url, asked):
        with ServerCounter(Endpoint(url + "/v1", "m", api_key="secret")) as counter:
            assert counter.ids("hello there") == local.ids("hello there")
            assert counter.count("hello there") == local.count("hello there")
            assert counter.count(MESSAGES) == local.count(MESSAGES) > local.count("hello there")
            assert disagreement(counter, local) is None
        assert {(path, key) for path, _, key in asked} == {("/tokenize", "Bearer secret")}
        assert asked[0][1]["model"] == "m"


def test_a_server_that_takes_content_is_found_out(tokenizer: Tokenizer) -> None:
    with server(by_content(tokenizer)) as (url, asked):
        with ServerCounter(Endpoint(url, "m")) as counter:
            assert counter.ids("hello there") == LocalCounter(tokenizer).ids("hello there")
            assert counter.count(MESSAGES) == len(tokenizer.encode("<|user|>hello there"))
        assert asked[-2][0] == "/apply-template"
        assert asked[-1][1]["parse_special"] is True


def test_tools_are_counted_too(tokenizer: Tokenizer) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with server(by_prompt(tokenizer)) as (url, asked), ServerCounter(Endpoint(url, "m")) as counter:
        counter.count(MESSAGES, [tool])
        assert asked[-1][1]["tools"] == [tool]


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"no", b"{}", b'{"tokens": 5}', b'{"tokens": ["a"]}', b'{"tokens": []}', b"[" * 100_000]
)
def test_a_server_that_does_not_count_is_refused_in_a_line(data: bytes) -> None:
    with server(lambda path, body: (200, data)) as (url, _), pytest.raises(ConfigError) as refused:
        ServerCounter(Endpoint(url, "m"))
    assert "no /tokenize that counts" in str(refused.value)
    assert "local tokenizer" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_route_and_no_server_are_told_apart() -> None:
    missing = pytest.raises(ConfigError, match=r"status 404.*not here")
    with server(lambda path, body: (404, b"not here")) as (url, _), missing:
        ServerCounter(Endpoint(url, "m"))
    with pytest.raises(ConfigError, match="doesn't answer"):
        ServerCounter(Endpoint("http://127.0.0.1:9", "m"))


def test_an_endless_answer_is_cut_off(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "MAX_COUNTED_ANSWER_BYTES", 100)
    with server(lambda path, body: (200, b" " * 5000)) as (url, _), pytest.raises(ConfigError, match="longer than 100"):
        ServerCounter(Endpoint(url, "m"))


def test_another_tokenizer_is_found_out(tokenizer: Tokenizer) -> None:
    local = LocalCounter(tokenizer)

    class Begins(LocalCounter):
        def count(self, prompt, tools=()) -> int:
            return super().count(prompt, tools) + 1

    class Cuts(LocalCounter):
        def ids(self, text: str) -> tuple[int, ...]:
            return super().ids(text.lower())

    assert disagreement(local, local) is None
    assert "make a prompt" in (disagreement(local, Begins(tokenizer)) or "")
    assert "cut" in (disagreement(local, Cuts(tokenizer)) or "")
