"""Where a record comes from: version, commit, date, machine, tier and the machine's limits of the same run.

Knows nothing about what was measured. Invariant: a tree with uncommitted changes is said to be one, and a package that
is not its own checkout has no commit.
"""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from penstock import __version__, _native
from penstock.backend.cpu import default_threads, read_machine
from penstock.bench.machine import MachineLimits

PACKAGE = Path(__file__).resolve().parent.parent
GIT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Origin:
    """What a record was measured with and on.

    Attributes:
        penstock: version.
        commit: short hash, "+" behind it where files differ from it; None where there is no checkout.
        date: UTC, to the minute.
        cpu, system, memory_bytes, python: of the machine that measured.
        tier, threads: that the native library takes there by default.
        machine: its limits, measured in the same run; None where nobody did.
    """

    penstock: str
    commit: str | None
    date: str
    cpu: str
    system: str
    memory_bytes: int
    python: str
    tier: str
    threads: int
    machine: MachineLimits | None = None


def read_origin(limits: MachineLimits | None = None) -> Origin:
    """The origin of what is measured now; tier and threads are those of the limits where they were measured."""
    machine = read_machine()
    return Origin(
        penstock=__version__,
        commit=read_commit(),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cpu=machine.cpu,
        system=platform.platform(),
        memory_bytes=machine.total_bytes,
        python=platform.python_version(),
        tier=limits.tier if limits is not None else str(_native.kernels().name),
        threads=limits.threads if limits is not None else default_threads(),
        machine=limits,
    )


def read_commit(package: Path = PACKAGE) -> str | None:
    """The checkout's commit, with "+" behind it where tracked files differ; None where the package has none."""
    try:
        top = Path(_git(package, "rev-parse", "--show-toplevel")).resolve()
        if top / "src" / package.name != package.resolve():
            return None
        head = _git(package, "rev-parse", "--short", "HEAD")
        return head + ("+" if _git(package, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_S
    )
    return done.stdout.strip()
