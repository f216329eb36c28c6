import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from penstock.bench import Endpoint, ServedModel, served_model
from penstock.core import ConfigError
from penstock.core.limits import MAX_EVENT_BYTES

Serve = Callable[[int, bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server whose every answer is that status and body; returns its URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = body if self.path == "/v1/models" and self.headers["Authorization"] == "Bearer k" else b"{}"
                self.send_response(status)
                self.send_header("Content-Length", str(len(found)))
                self.end_headers()
                self.wfile.write(found)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def listed(*rows: Any) -> bytes:
    return json.dumps({"object": "list", "data": rows}).encode()


TWO = listed({"id": "a", "max_model_len": 512}, {"id": "b"}, {"id": 7}, "x")


def test_the_first_model_or_the_named_one(serve: Serve) -> None:
    url = serve(200, TWO)
    assert served_model(Endpoint(url, "", api_key="k")) == ServedModel("a", 512)
    assert served_model(Endpoint(url, "b", api_key="k")) == ServedModel("b", None)
    with pytest.raises(ConfigError, match=r"no model 'c'.*it has a, b"):
        served_model(Endpoint(url, "c", api_key="k"))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, listed()),
        (200, b"[]"),
        (200, b'{"data": 3}'),
        (200, b"no"),
        (200, b"[" * 100_000),
        (200, listed({"id": "a" * 100_000}, {"id": "\x1b[2J"}, {"id": ""})),
        (200, b" " * (MAX_EVENT_BYTES + 1)),
        (401, TWO),
        (500, b""),
    ],
)
def test_a_list_of_no_use(serve: Serve, status: int, body: bytes) -> None:
    url = serve(status, body)
    with pytest.raises(ConfigError, match="names no models"):
        served_model(Endpoint(url, "", api_key="k"))
    assert served_model(Endpoint(url, "given", api_key="k")) == ServedModel("given", None)


@pytest.mark.parametrize("length", [0, -1, True, "512", 1.5])
def test_a_context_of_no_sense_is_unknown(serve: Serve, length: object) -> None:
    url = serve(200, listed({"id": "a", "max_model_len": length}))
    assert served_model(Endpoint(url, "", api_key="k")) == ServedModel("a", None)


def test_nobody_there() -> None:
    with pytest.raises(ConfigError, match="hint"):
        served_model(Endpoint("http://127.0.0.1:9", ""))
