"""Reads a request's body: the right kind, counted while it comes, bounded in bytes and in time.

Knows nothing about JSON. Invariant: no more than the limit is ever held, whatever Content-Length says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from penstock.api.generation import ClientGone
from penstock.api.state import ApiState
from penstock.core import InvalidRequest, PayloadTooLarge, UnsupportedMedia, limits


@asynccontextmanager
async def read_body(state: ApiState, request: HttpRequest) -> AsyncIterator[bytes]:
    """The body; its bytes count against the server's total until the block ends.

    Raises:
        UnsupportedMedia: another content type or any content encoding.
        PayloadTooLarge: over the limit, by Content-Length or by count.
        Overloaded: other bodies fill the memory set aside.
        InvalidRequest: it came too slowly.
        ClientGone: the connection closed first.
    """
    _check_kind(request)
    body = await _read(state, request)
    try:
        yield body
    finally:
        state.hold_body(-len(body))


async def _read(state: ApiState, request: HttpRequest) -> bytes:
    """The whole body, counted in; nothing stays counted when it fails."""
    parts: list[bytes] = []
    held = 0
    try:
        async with asyncio.timeout(limits.MAX_BODY_S):
            async for part in request.stream():
                state.hold_body(len(part))
                held += len(part)
                if held > limits.MAX_BODY_BYTES:
                    raise _too_large()
                parts.append(part)
        return b"".join(parts)
    except BaseException as error:
        state.hold_body(-held)
        if isinstance(error, ClientDisconnect):
            raise ClientGone from None
        if isinstance(error, TimeoutError):
            raise InvalidRequest(
                f"the body took longer than {limits.MAX_BODY_S:.0f} s.", code="body_timeout", hint="send it faster."
            ) from None
        raise


def _check_kind(request: HttpRequest) -> None:
    media = request.headers.get("content-type", "").split(";")
    if media[0].strip().lower() != "application/json":
        raise UnsupportedMedia("the content type is not application/json.", hint="send Content-Type: application/json.")
    for parameter in media[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.strip().lower() == "charset" and value.strip(" \"'").lower() not in {"utf-8", "utf8"}:
            raise UnsupportedMedia("the charset is not UTF-8.", hint="send UTF-8.")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMedia("the body has a content encoding.", hint="send it uncompressed.")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > limits.MAX_BODY_BYTES):
        raise _too_large()


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body is over {limits.MAX_BODY_BYTES} bytes.", hint="send less, or token ids instead of text."
    )
