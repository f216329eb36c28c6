"""A hub on this machine: repositories, revisions, LFS digests, ranges, redirects, and every way to fail."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LFS_FROM = 1000  # bytes from which a file is stored apart, with a SHA-256


@dataclass
class Repo:
    """A repository at one commit."""

    files: dict[str, bytes]
    commit: str = "a" * 40
    names: tuple[str, ...] = ("main", "v1")
    gated: bool = False
    extra: list[dict[str, Any]] = field(default_factory=list)  # of the listing, as they are

    def tree(self) -> list[dict[str, Any]]:
        return [entry(path, data) for path, data in self.files.items()] + self.extra


@dataclass
class StubHub:
    """What the server does, and what it was asked."""

    repos: dict[str, Repo] = field(default_factory=dict)
    endpoint: str = ""
    elsewhere: str = ""  # another host, as large files are kept on
    redirect: bool = False
    break_after: list[int] = field(default_factory=list)  # bytes of the next answers, after which the connection breaks
    refuse: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # status and headers of the next downloads
    ignore_range: bool = False
    changed: dict[str, bytes] = field(default_factory=dict)  # served in place of what is listed
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)  # method, path, headers

    def downloads(self) -> list[tuple[str, str]]:
        """(path, Range) of every GET of a file."""
        return [(path, heads.get("range", "")) for method, path, heads in self.asked if "/resolve/" in path]


def entry(path: str, data: bytes) -> dict[str, Any]:
    """A listed file."""
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    found = {"type": "file", "path": path, "size": len(data), "oid": git}
    if len(data) >= LFS_FROM:
        found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return found


@contextmanager
def serve(repos: dict[str, Repo]) -> Iterator[StubHub]:
    """A hub that answers until the block ends."""
    hub = StubHub(repos)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(hub, self)

        def log_message(self, *values: object) -> None:
            pass

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for server, thread in zip(servers, threads, strict=True):
        server.daemon_threads = True
        thread.start()
    hub.endpoint, hub.elsewhere = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


def answer(hub: StubHub, request: BaseHTTPRequestHandler) -> None:
    path = request.path.split("?")[0]
    headers = {name.lower(): value for name, value in request.headers.items()}
    hub.asked.append((request.command, path, headers))
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "models"]:
        api(hub, request, "/".join(parts[2:4]), parts[4:])
    elif len(parts) > 4 and parts[2] == "resolve":
        download(hub, request, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
    else:
        fail(request, 404, "EntryNotFound")


def api(hub: StubHub, request: BaseHTTPRequestHandler, name: str, rest: list[str]) -> None:
    repo = hub.repos.get(name)
    if repo is None:
        return fail(request, 401, "RepoNotFound")
    revision = rest[1] if len(rest) > 1 else "main"
    if revision not in (*repo.names, repo.commit):
        return fail(request, 404, "RevisionNotFound")
    if rest[:1] == ["tree"]:
        return send(request, json.dumps(repo.tree()).encode())
    return send(request, json.dumps({"id": name, "sha": repo.commit, "siblings": []}).encode())


def download(hub: StubHub, request: BaseHTTPRequestHandler, name: str, revision: str, path: str) -> None:
    repo = hub.repos[name]
    here = f"127.0.0.1:{request.server.server_port}" in hub.endpoint  # type: ignore[attr-defined]
    if repo.gated and "authorization" not in {key.lower() for key in request.headers}:
        return fail(request, 401, "GatedRepo")
    if revision != repo.commit or path not in repo.files:
        return fail(request, 404, "EntryNotFound")
    if hub.refuse:
        status, headers = hub.refuse.pop(0)
        return fail(request, status, "", **headers)
    if hub.redirect and here:
        return fail(request, 302, "", Location=f"{hub.elsewhere}{request.path}")
    data = hub.changed.get(path, repo.files[path])
    span = request.headers.get("Range")
    if hub.ignore_range or not span:
        return send(request, data, hub=hub)
    start, last = (int(number) for number in span.removeprefix("bytes=").split("-"))
    last = min(last, len(data) - 1)
    if start >= len(data):
        return fail(request, 416, "")
    return send(request, data[start : last + 1], 206, hub, **{"Content-Range": f"bytes {start}-{last}/{len(data)}"})


WARNING = "everyone; is warned about something"


def send(
    request: BaseHTTPRequestHandler, body: bytes, status: int = 200, hub: StubHub | None = None, **headers: str
) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.send_header("X-HF-Warning", WARNING)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
    kept = hub.break_after.pop(0) if hub is not None and hub.break_after else len(body)
    if kept < len(body):  # a whole answer leaves the connection to the next request
        request.wfile.write(body[:kept])
        request.wfile.flush()
        request.close_connection = True
        request.connection.shutdown(2)
        return
    request.wfile.write(body)


def fail(request: BaseHTTPRequestHandler, status: int, code: str, **headers: str) -> None:
    request.send_response(status)
    if code:
        request.send_header("X-Error-Code", code)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", "0")
    request.end_headers()
