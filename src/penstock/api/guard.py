"""The outermost layer: request ids, browser rules, keys, draining, and the one place where failures become answers.

Knows nothing about what routes do. Invariant: every path but the health routes needs a key when there are keys, decided
on the path that routing uses; every answer that is not 2xx has the error contract's body.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.api.failure import error_body, error_headers, to_penstock
from penstock.api.generation import ClientGone
from penstock.api.settings import is_loopback_name
from penstock.api.state import ApiState
from penstock.core import Forbidden, InvalidRequest, PenstockError, Unauthorized

# No key is needed for these, and they answer while the server drains.
PUBLIC_PATHS: Final = frozenset({"/health", "/health/live", "/health/ready"})
_WHILE_DRAINING: Final = PUBLIC_PATHS | {"/metrics", "/version"}
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)(?::(?P<port>[0-9]{1,5}))?")
_HEADER_NAMES: Final = re.compile(rb"[A-Za-z0-9\-]{1,64}(?:, ?[A-Za-z0-9\-]{1,64}){0,63}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SINGLE: Final = (b"host", b"authorization", b"content-length", b"content-type", b"origin")


class Guard:
    """The ASGI layer around the routes.

    Args:
        app: the routes.
        state: of the server.
        routes: endpoint → the pattern that is its label in metrics.
    """

    def __init__(self, app: ASGIApp, state: ApiState, routes: Mapping[object, str]) -> None:
        self._app = app
        self._state = state
        self._routes = routes
        self._keys = [hashlib.sha256(key.encode()).digest() for key in state.settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or passes the lifespan on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, self._state, scope, self._cors(scope))
        try:
            if self._is_preflight(scope):
                await answer.send_preflight(_announced(scope))
                return
            self._admit(scope)
            await self._app(scope, receive, answer.send)
        except ClientGone:
            return
        except Exception as error:
            if answer.status:
                raise
            await answer.send_error(to_penstock(error, answer.request_id))
        finally:
            self._count(scope, answer.status)

    def _count(self, scope: Scope, status: int) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        route = self._routes.get(scope.get("endpoint"), "unmatched")
        self._state.metrics.answered(method, route, status or 499)

    def _admit(self, scope: Scope) -> None:
        headers = _single_headers(scope)
        host = _host_name(headers.get(b"host", ""))
        if self._state.settings.is_loopback:
            self._check_loopback(host, headers.get(b"origin"))
        path = scope["path"]
        if self._keys and path not in PUBLIC_PATHS:
            scope["penstock.tenant"] = self._tenant(headers.get(b"authorization", ""))
        if self._state.draining and path not in _WHILE_DRAINING:
            raise self._state.draining_error()

    def _check_loopback(self, host: str, origin: str | None) -> None:
        if not is_loopback_name(host):
            raise Forbidden(
                "this server answers this machine only, under its own names.",
                code="foreign_host",
                hint="use localhost, or serve on another --host with --api-key.",
            )
        if origin is None or self._origin_allowed(origin):
            return
        if not is_loopback_name(urlsplit(origin).hostname or ""):
            raise Forbidden(
                "requests from this browser origin are not taken.",
                code="foreign_origin",
                hint="allow it: --cors-origin.",
            )

    def _origin_allowed(self, origin: str) -> bool:
        allowed = self._state.settings.cors_origins
        return "*" in allowed or origin in allowed

    def _tenant(self, authorization: str) -> str:
        """The key's digest, shortened: who asks; it parts the prefix caches of different keys."""
        scheme, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.encode("latin-1")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthorized("the API key is missing or wrong.", hint="send Authorization: Bearer <key>.")
        return digest.hex()[:16]

    def _cors(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        origin = _header(scope, b"origin")
        if origin is None or not self._origin_allowed(origin):
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", b"x-request-id, retry-after"),
            (b"vary", b"Origin"),
        ]

    def _is_preflight(self, scope: Scope) -> bool:
        return (
            scope["method"] == "OPTIONS"
            and _header(scope, b"access-control-request-method") is not None
            and self._origin_allowed(_header(scope, b"origin") or "")
        )


class _Answer:
    """One answer on its way out: adds the headers that every answer has, and remembers its status."""

    def __init__(self, send: Send, state: ApiState, scope: Scope, cors: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._state = state
        self._cors = cors
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        fits = len(given) == 1 and _REQUEST_ID.fullmatch(given[0])
        self.request_id = given[0].decode() if fits else f"req-{state.sources.draw_id()}"
        self.status = 0

    async def send(self, message: Message) -> None:
        """Passes a message on; the first one gets the shared headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode()), *self._cors]
            if self._state.draining:
                headers = [*(pair for pair in headers if pair[0] != b"connection"), (b"connection", b"close")]
            message = {**message, "headers": headers}
        await self._send(message)

    async def send_error(self, error: PenstockError) -> None:
        """Sends the error contract's answer."""
        body = error_body(error)
        headers = [*error_headers(error), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def send_preflight(self, names: bytes) -> None:
        """Lets an allowed browser origin go on with the request that it announced, with those headers."""
        headers = [
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-allow-headers", names),
            (b"access-control-max-age", b"600"),
            (b"content-length", b"0"),
        ]
        await self.send({"type": "http.response.start", "status": 204, "headers": headers})
        await self.send({"type": "http.response.body", "body": b""})


def _header(scope: Scope, wanted: bytes) -> str | None:
    for name, value in scope["headers"]:
        if name == wanted:
            return str(value.decode("latin-1"))
    return None


def _announced(scope: Scope) -> bytes:
    """The header names that a preflight asks for (clients send many of their own), if they are names."""
    asked = (_header(scope, b"access-control-request-headers") or "").encode("latin-1")
    return asked if _HEADER_NAMES.fullmatch(asked) else b"authorization, content-type, x-request-id"


def _single_headers(scope: Scope) -> dict[bytes, str]:
    """The headers that decide something; none of them may be there twice."""
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name not in _SINGLE:
            continue
        if name in found:
            if name == b"authorization":
                raise Unauthorized("there are two Authorization headers.", hint="send one.")
            raise InvalidRequest(f"the {name.decode()} header is there twice.", code="invalid_header")
        found[name] = value.decode("latin-1")
    return found


def _host_name(host: str) -> str:
    match = _HOST.fullmatch(host)
    if match is None:
        raise InvalidRequest("the Host header is missing or is no host name.", code="invalid_host")
    return match["name"]
