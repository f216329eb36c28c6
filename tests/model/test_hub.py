"""Hub ids against a local server that answers as a hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "run.py": b"print(1)", "pytorch_model.bin": b"pickle"}
FILES |= {"m.gguf": b"GGUF", "tokenizer.json": b"{}"}
COMMIT = "a" * 40
CALL = """
import sys
from penstock.core import ModelFileError
from penstock.model.hub import resolve_model
try:
    found = resolve_model(sys.argv[1], revision=sys.argv[2] or None)
    print("ok", found, *(sorted(p.name for p in found.iterdir()) if found.is_dir() else [found.name]))
except ModelFileError as error:
    print("refused", error)
"""


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[2:4] == ["org", "tiny"]:
            revision = parts[5] if len(parts) > 5 else "main"
            if revision not in ("main", COMMIT):
                return self.fail(404, "RevisionNotFound")
            if parts[4:5] == ["tree"]:
                tree = [{"type": "file", "path": n, "size": len(b), "oid": oid(b)} for n, b in FILES.items()]
                return self.send(json.dumps(tree).encode())
            names = [{"rfilename": name} for name in FILES]
            return self.send(json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": names}).encode())
        if parts[:2] == ["org", "tiny"] and parts[2:3] == ["resolve"]:
            name = "/".join(parts[4:])
            return self.send(FILES[name]) if name in FILES else self.fail(404, "EntryNotFound")
        return self.fail(403, "GatedRepo") if "gated" in parts else self.fail(404, "RepoNotFound")

    def send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{oid(body)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *values: object) -> None:
        pass


def oid(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def resolve(endpoint: str, home: Path, name: str, revision: str = "") -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2] / "src")
    environment["HF_HUB_ETAG_TIMEOUT"] = "2"
    done = subprocess.run(
        [sys.executable, "-c", CALL, name, revision], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_fetch_then_offline(endpoint: str, tmp_path: Path) -> None:
    first = resolve(endpoint, tmp_path, "org/tiny")
    assert first.startswith("ok") and first.endswith("config.json model.safetensors tokenizer.json")
    assert resolve("http://127.0.0.1:9", tmp_path, "org/tiny") == first  # nobody listens there: from the cache
    refused = resolve("http://127.0.0.1:9", tmp_path, "org/other")
    assert refused.startswith("refused org/other: not on disk, not in the cache")


def test_one_gguf_file(endpoint: str, tmp_path: Path) -> None:
    assert resolve(endpoint, tmp_path, "org/tiny/m.gguf").endswith("m.gguf m.gguf")
    assert "this file is not" in resolve(endpoint, tmp_path, "org/tiny/other.gguf")


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("org/gated", "", "access is gated"),
        ("org/absent", "", "not on the hub"),
        ("org/tiny", "v9", "no revision 'v9'"),
        ("no such thing", "", "no hub id"),
        ("../../etc/passwd/x", "", "no hub id"),
    ],
)
def test_failures_are_one_line(name: str, revision: str, words: str, endpoint: str, tmp_path: Path) -> None:
    line = resolve(endpoint, tmp_path, name, revision)
    assert line.startswith(f"refused {name}") and words in line and "\n" not in line
