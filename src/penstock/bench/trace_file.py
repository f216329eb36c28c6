"""Reads the lines of a trace, plain or gzipped, within bounds.

Knows nothing about what the lines say. Invariant: a file can't make its reader hold more than one line of bounded
length, nor unpack more than a bounded number of bytes.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from penstock.core import ConfigError, check_json_bounds
from penstock.core.limits import MAX_TRACE_BYTES, MAX_TRACE_LINE_BYTES, MAX_TRACE_ROWS


def trace_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line that isn't empty with its number, from 1.

    Raises:
        ConfigError: the file can't be read, or a line, their number or all of them together are over the limit.
    """
    total = 0
    try:
        with open_trace(path) as file:
            for number in range(1, MAX_TRACE_ROWS + 3):  # a heading, and the end
                line = file.readline(MAX_TRACE_LINE_BYTES + 1)
                total += len(line)
                if len(line) > MAX_TRACE_LINE_BYTES:
                    refuse(path, number, f"is longer than {MAX_TRACE_LINE_BYTES} bytes")
                if total > MAX_TRACE_BYTES:
                    refuse(path, number, f"is past {MAX_TRACE_BYTES} unpacked bytes")
                if not line:
                    return
                if not line.isspace():
                    yield number, line.strip()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"{path.name} can't be read: {error}.", param="trace", hint="is it whole, and the right file?"
        ) from None
    refuse(path, number, f"is past {MAX_TRACE_ROWS} rows")


def open_trace(path: Path) -> IO[bytes]:
    """The unpacked bytes of a file; one that isn't a regular file is never opened.

    Raises:
        OSError: it can't be opened.
    """
    if not path.is_file():
        raise OSError("no such file")
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def trace_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON object of each line with the line's number.

    Raises:
        ConfigError: as `trace_lines`, or a line is no JSON object within bounds.
    """
    for number, line in trace_lines(path):
        try:
            check_json_bounds(line)
            found = json.loads(line, parse_constant=no_constant)
        except (ValueError, RecursionError) as error:
            refuse(path, number, f"is no JSON object: {str(error)[:120]}")
        if not isinstance(found, dict):
            refuse(path, number, "is no JSON object")
        yield number, found


def count_in(value: Any, least: int, most: int) -> bool:
    """Whether it is a whole number within [least, most]."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def number_in(value: Any, least: float, most: float) -> bool:
    """Whether it is a number within [least, most]; NaN is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def refuse(path: Path, line: int, why: str) -> NoReturn:
    """Raises ConfigError for a line of a trace."""
    raise ConfigError(f"{path.name} line {line} {why}.", param="trace", hint="is it the right file for this format?")


def no_constant(name: str) -> NoReturn:
    """Refuses what JSON doesn't have: NaN and infinities."""
    raise ValueError(f"{name} is no number")
