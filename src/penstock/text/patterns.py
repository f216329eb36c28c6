"""Which regular expressions of a stranger's tokenizer may run: those whose work is a small power of the text's length.

Knows nothing about tokenizers. The library's engine backtracks and can't be stopped. Invariant: what passes has no
back references, calls or absent operators, repeats only characters and groups of one fixed form, and varies in few
places on one path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from penstock.core import ModelFileError, limits

_MAX_UNBOUNDED = 2  # on one path, as published patterns have
_MAX_VARYING = 8  # on one path, alternations counted; published patterns have five
_MAX_DEPTH = 16
_WIDE = 16  # a repeat that can vary by more than this counts as endless
_QUANTIFIER = re.compile(r"[*+?][?+]?|\{(\d{0,6})(,?)(\d{0,6})\}\??")
_REFUSED = re.compile(r"\\(?:[1-9]|k[<']|g[<'])|\(\?(?:\(|~|R|&|P[=>]|\d|[imsa-]*x)")
_OPENING = re.compile(r"\((?:\?(?:[imsa-]*:|<?[=!]|>|<\w+>|'\w+'|[imsa-]+(?=\))|#[^)]*(?=\))))?")
_ATOM = re.compile(r"\\(?:[pPxuo]\{[^}]*\}|x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|.)|[^\\\[\]()|]", re.DOTALL)


@dataclass(slots=True)
class _Cost:
    """What one path through an expression may do.

    Attributes:
        unbounded: repeats without end.
        varying: places where the engine has a choice.
    """

    unbounded: int = 0
    varying: int = 0


def check_pattern(pattern: str) -> None:
    """Raises where an expression could take forever on some text.

    Raises:
        ModelFileError: names the expression and what is wrong with it.
    """
    shown = repr(pattern[:48])
    if len(pattern) > limits.MAX_PATTERN_CHARS:
        raise ModelFileError(
            f"the pattern {shown}… has {len(pattern)} characters, at most {limits.MAX_PATTERN_CHARS} are taken."
        )
    if _REFUSED.search(pattern):
        raise ModelFileError(f"the pattern {shown} refers back to itself, which isn't taken.")
    cost, at = _alternatives(pattern, 0, 0)
    if at != len(pattern):
        raise ModelFileError(f"the pattern {shown} has an unmatched parenthesis.")
    if cost.unbounded > _MAX_UNBOUNDED or cost.varying > _MAX_VARYING:
        raise ModelFileError(
            f"the pattern {shown} repeats {cost.unbounded} times without end and chooses {cost.varying} times on one "
            f"path, at most {_MAX_UNBOUNDED} and {_MAX_VARYING} are taken."
        )


def _alternatives(pattern: str, at: int, depth: int) -> tuple[_Cost, int]:
    """The cost of the dearest of some alternatives, and where they end."""
    if depth > _MAX_DEPTH:
        raise ModelFileError(f"the pattern {pattern[:48]!r} is nested more than {_MAX_DEPTH} deep.")
    dearest = _Cost()
    count = 0
    while True:
        cost, at = _path(pattern, at, depth)
        count += 1
        dearest = _Cost(max(dearest.unbounded, cost.unbounded), max(dearest.varying, cost.varying))
        if at >= len(pattern) or pattern[at] != "|":
            break
        at += 1
    if count > 1 and depth > 0:
        dearest.varying += 1
    return dearest, at


def _path(pattern: str, at: int, depth: int) -> tuple[_Cost, int]:
    """The cost of one sequence, and where it ends."""
    total = _Cost()
    while at < len(pattern) and pattern[at] not in "|)":
        inner, at = _item(pattern, at, depth)
        while (quantifier := _QUANTIFIER.match(pattern, at)) is not None:
            at = quantifier.end()
            _repeat(inner, quantifier, pattern)
        total.unbounded += inner.unbounded
        total.varying += inner.varying
    return total, at


def _repeat(inner: _Cost, quantifier: re.Match[str], pattern: str) -> None:
    """Adds what repeating something costs."""
    low, high = _range(quantifier)
    if (high is None or high > 1) and inner.varying:
        raise ModelFileError(f"the pattern {pattern[:48]!r} repeats something that varies, which isn't taken.")
    if low != high:
        inner.varying += 1
        inner.unbounded += high is None or high - low > _WIDE


def _range(quantifier: re.Match[str]) -> tuple[int, int | None]:
    """(least, most) repeats; None for no end."""
    kind = quantifier[0][0]
    if kind != "{":
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[kind]
    low = int(quantifier[1] or 0)
    if not quantifier[2]:
        return low, low
    return low, int(quantifier[3]) if quantifier[3] else None


def _item(pattern: str, at: int, depth: int) -> tuple[_Cost, int]:
    """The cost of one character, class or group, and where it ends."""
    if pattern[at] == "(":
        opening = _OPENING.match(pattern, at)
        cost, end = _alternatives(pattern, at + 1 if opening is None else opening.end(), depth + 1)
        if end >= len(pattern):
            raise ModelFileError(f"the pattern {pattern[:48]!r} has an unmatched parenthesis.")
        return cost, end + 1
    if pattern[at] == "[":
        return _Cost(), _class_end(pattern, at)
    match = _ATOM.match(pattern, at)
    return _Cost(), at + 1 if match is None else match.end()


def _class_end(pattern: str, at: int) -> int:
    """Where a class of characters ends; classes may hold classes."""
    depth = 0
    first = -1
    while at < len(pattern):
        char = pattern[at]
        if char == "[":
            depth += 1
            first = at + (2 if pattern[at + 1 : at + 2] == "^" else 1)
            at = first - 1
        elif char == "]" and at != first:
            depth -= 1
            if depth == 0:
                return at + 1
        at += 2 if char == "\\" else 1
    raise ModelFileError(f"the pattern {pattern[:48]!r} has an unmatched bracket.")
