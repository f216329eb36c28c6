"""JSON as the API takes it: bounded before anything is allocated, no duplicate keys, no NaN, no lone surrogates.

Knows nothing about fields. Invariant: whatever the bytes are, the result is a dict of plain values or an
InvalidRequest; the time is linear in the bytes. A number outside what fields can hold becomes a `BadNumber`, so that
the check of the fields can name the field it stands in.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from penstock.core import InvalidRequest, limits

_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_MAX_DIGITS: Final = 20


class BadNumber:
    """A number outside what fields can hold: NaN, an infinity, a float that overflows, an integer of over 20 digits."""

    __slots__ = ()


_BAD_NUMBER: Final = BadNumber()


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`.

    Raises:
        InvalidRequest: it is not UTF-8, not JSON, not an object, too deep, too many values, or has a key twice; `param`
            names the top-level field where one is at fault.
    """
    _check_shape(body)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8 (byte {error.start}).", code="invalid_json") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"the body is not JSON: line {error.lineno}, column {error.colno}.", code="invalid_json"
        ) from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body is not a JSON object.", code="invalid_json", hint='send {"model": …, …}.')
    if _SURROGATE.search(body):
        _check_surrogates(value)
    return value


def _check_shape(body: bytes) -> None:
    """Counts strings, containers and values, and the depth, from the raw bytes."""
    # Within a string a backslash escapes the next byte; pairs go first, so that what is left of \" is an escaped quote.
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    if bare.count(b'"') > 4 * limits.MAX_JSON_KEYS:
        raise InvalidRequest(
            "the body has too many strings.", code="invalid_json", hint=f"at most {2 * limits.MAX_JSON_KEYS} are taken."
        )
    outside = b"".join(bare.split(b'"')[::2])
    if outside.count(b",") > limits.MAX_JSON_VALUES:
        raise InvalidRequest(
            "the body has too many values.", code="invalid_json", hint=f"at most {limits.MAX_JSON_VALUES} are taken."
        )
    brackets = outside.translate(None, _NOT_BRACKETS)
    if len(brackets) > 2 * limits.MAX_JSON_KEYS:
        raise InvalidRequest(
            "the body has too many lists and objects.",
            code="invalid_json",
            hint=f"at most {limits.MAX_JSON_KEYS} are taken.",
        )
    depth = 0
    for byte in brackets:
        depth += 1 if byte in b"[{" else -1
        if depth > limits.MAX_JSON_DEPTH:
            raise _too_deep()


def _too_deep() -> InvalidRequest:
    return InvalidRequest(
        "the body is nested too deeply.", code="invalid_json", hint=f"at most {limits.MAX_JSON_DEPTH} levels are taken."
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise InvalidRequest("the body has a key twice in one object.", code="invalid_json")
    return made


def _integer(text: str) -> int | BadNumber:
    return int(text) if len(text) <= _MAX_DIGITS else _BAD_NUMBER


def _float(text: str) -> float | BadNumber:
    value = float(text)
    return value if -1e308 <= value <= 1e308 else _BAD_NUMBER


def _constant(text: str) -> BadNumber:
    return _BAD_NUMBER


def _check_surrogates(value: dict[str, Any]) -> None:
    for name, field in value.items():
        if not _is_text(name):
            raise InvalidRequest("a key has half of a surrogate pair.", code="invalid_json")
        if not _all_text(field):
            raise InvalidRequest(
                f"{name[:64]} has half of a surrogate pair, which is no character.",
                param=name[:64],
                code="invalid_json",
            )


def _all_text(root: Any) -> bool:
    pending = [root]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            if not _is_text(value):
                return False
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.keys())
            pending.extend(value.values())
    return True


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
