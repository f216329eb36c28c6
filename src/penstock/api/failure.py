"""How a failure becomes an answer: one body, one set of headers, one SSE frame, for every route.

Knows nothing about routes. Invariant: the text comes from a PenstockError; of any other exception only the class name
and the places in our code reach the log, and nothing the client.
"""

from __future__ import annotations

import json
import logging
import math
import traceback
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException

from penstock.core import (
    HeadersTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    PenstockError,
    ServerError,
    Unauthorized,
)

_log: Final = logging.getLogger("penstock.api")

DONE: Final = b"data: [DONE]\n\n"
_LOGGED_FRAMES: Final = 4


def to_penstock(error: BaseException, request_id: str) -> PenstockError:
    """The failure that a client may see; a foreign exception becomes a generic one and goes to the log."""
    if isinstance(error, PenstockError):
        return error
    if isinstance(error, HTTPException):
        return _from_http(error.status_code)
    _log.error("request %s failed: %s at %s", request_id, type(error).__name__, _place(error))
    # What fails by our own bug once fails again: without the header clients would send it three times.
    return ServerError(
        "the server failed on this request.", hint=f"report request id {request_id}.", should_retry=False
    )


def _place(error: BaseException) -> str:
    """Where it was raised, innermost last; never the exception's own text, which may hold what a client sent."""
    frames = traceback.extract_tb(error.__traceback__)[-_LOGGED_FRAMES:]
    return " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames) or "no frame"


def _from_http(status: int) -> PenstockError:
    if status == 404:
        return NotFound("no such route.", hint="GET /docs lists them.")
    if status == 405:
        return MethodNotAllowed("this route does not take that method.", hint="GET /docs lists them.")
    return InvalidRequest("the request cannot be served.")


def error_body(error: PenstockError) -> bytes:
    """The JSON of the error contract."""
    return json.dumps(error.body(), ensure_ascii=False).encode()


def error_frame(error: PenstockError) -> bytes:
    """What ends a stream that failed after its headers: the error, then the end mark."""
    return b"data: " + error_body(error) + b"\n\n" + DONE


def error_headers(error: PenstockError) -> list[tuple[bytes, bytes]]:
    """Headers beside the body: type, retry advice, authentication scheme, and whether the connection ends."""
    headers = [(b"content-type", b"application/json")]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, (PayloadTooLarge, HeadersTooLarge)) or error.code == "draining":
        headers.append((b"connection", b"close"))
    return headers
