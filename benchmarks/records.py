"""Benchmark records: figures with what they were measured on and of.

Invariant: a record names machine, tier, threads, commit and date; a tree with uncommitted changes is said to be one.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from penstock import __version__, _native
from penstock.backend.cpu import default_threads, read_machine

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """The checked-out commit, with "+" behind it where files differ from it."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def write_record(path: str | Path | None, figures: Any, **configuration: Any) -> None:
    """Writes a record where a path was given."""
    if path is None:
        return
    machine = read_machine()
    record = {
        "penstock": __version__,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": {"cpu": machine.cpu, "system": platform.platform(), "memory_bytes": machine.total_bytes},
        "python": platform.python_version(),
        "tier": _native.kernels().name,
        "threads": default_threads(),
        "configuration": configuration,
        "figures": figures,
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record, indent=1) + "\n")
