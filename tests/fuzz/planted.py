"""Openers with a known fault: what the harness must find, or its silence means nothing."""

from __future__ import annotations

import ctypes
from pathlib import Path

from tests.fuzz.opening import Open

from penstock.core import ModelFileError


def crash(path: Path) -> None:
    """Reads through a null pointer."""
    ctypes.string_at(0)


def hang(path: Path) -> None:
    """Never comes back."""
    while True:
        pass


def grow(path: Path) -> None:
    """Believes a length: takes memory before it refuses."""
    held = bytearray(b"\1") * (100 * 1024 * 1024)
    raise ModelFileError(f"{path}: {len(held)} bytes are too many.")


def wrong_error(path: Path) -> None:
    """Fails with what no caller expects."""
    raise IndexError("list index out of range")


def two_lines(path: Path) -> None:
    """Fails with a traceback for a message."""
    raise ModelFileError(f"{path}: first\nsecond")


def nameless(path: Path) -> None:
    """Does not say which file."""
    raise ModelFileError("something is wrong.")


def noisy(path: Path) -> None:
    """Prints from beneath Python."""
    ctypes.CDLL(None).puts(b"thread panicked")
    ctypes.CDLL(None).fflush(None)
    raise ModelFileError(f"{path}: refused.")


def exhausted(path: Path) -> None:
    """Takes what the process may not have."""
    bytearray(100 * 1024**3)


PLANTED: dict[str, tuple[Open, str]] = {
    "crash": (crash, "crash"),
    "hang": (hang, "hang"),
    "grow": (grow, "memory"),
    "wrong error": (wrong_error, "bug"),
    "two lines": (two_lines, "line"),
    "nameless": (nameless, "line"),
    "noisy": (noisy, "noise"),
    "exhausted": (exhausted, "memory"),
}
