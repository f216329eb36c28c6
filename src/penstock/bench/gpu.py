"""What the GPUs here can do at most: bandwidth of copies and rate of matrix products, measured by a process of its own.

Knows nothing about torch but whether it is there. Invariant: no GPU gives no figure and is no fault; one that can't be
measured is said.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from penstock.bench import stats
from penstock.bench.stats import Estimate

COMMAND = (sys.executable, "-m", "penstock.backend.torch.limits")
TIMEOUT_S = 180.0
MAX_GPUS = 64
MAX_WHY = 200
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # one of them is there where a GPU can be used


@dataclass(frozen=True, slots=True)
class GpuLimits:
    """The limits of one GPU.

    Attributes:
        name: the device's.
        copy: within its memory, read and written, in GB/s: the median with its interval.
        matmul: of products of bf16 matrices, in Gflop/s.
    """

    name: str
    copy: Estimate
    matmul: Estimate


def measure_gpus(quick: bool = False, command: Sequence[str] | None = None) -> tuple[tuple[GpuLimits, ...], str]:
    """The limits of every GPU that PyTorch sees, and why there are none where that is a fault, else "".

    PyTorch takes seconds to import, so it is asked only where a GPU's driver is.

    Args:
        quick: only whether it runs.
        command: gives the times; None asks PyTorch where it is installed.
    """
    if command is None:
        if not any(Path(driver).exists() for driver in DRIVERS) or find_spec("torch") is None:
            return (), ""
        command = (*COMMAND, "--quick") if quick else COMMAND
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, text=True, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), f"the GPU was not measured: {str(error)[:MAX_WHY]}"
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return (), f"the GPU was not measured: {last[0][:MAX_WHY]}"
    try:
        return tuple(limits_of(**one) for one in json.loads(done.stdout)[:MAX_GPUS]), ""
    except (ValueError, TypeError, ZeroDivisionError):
        return (), f"the GPU was not measured: its times can't be read: {done.stdout[:MAX_WHY]!r}"


def limits_of(name: str, copied_bytes: int, copy_s: list[float], operations: int, product_s: list[float]) -> GpuLimits:
    """The limits that some times make."""
    return GpuLimits(
        str(name),
        stats.median(copy_s).per(copied_bytes / 1e9),
        stats.median(product_s).per(operations / 1e9),
    )
