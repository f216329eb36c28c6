"""Benchmark records of the scripts here: those of `penstock.bench`, with figures of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from penstock.bench import MachineLimits, Record, read_origin
from penstock.bench import write_record as write

ROOT = Path(__file__).resolve().parent.parent


def save(path: str | Path | None, record: Record) -> None:
    """Writes a record where a path was given."""
    if path is not None:
        write(path, record)


def write_record(
    path: str | Path | None, title: str, figures: Any, machine: MachineLimits | None = None, **choices: Any
) -> Record:
    """The record of figures with what they were measured on and of, written where a path was given."""
    found = figures if isinstance(figures, dict) else {"rows": figures}
    record = Record("figures", title, read_origin(machine), choices, figures=found)
    save(path, record)
    return record
