"""What this machine offers: memory that can be taken and a name for reports, read from the operating system.

Knows nothing about models. Invariant: a container's limits win over the host's figures.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts of the machine.

    Attributes:
        cpu: processor model name.
        system: operating system and architecture.
        total_bytes: memory of the machine or the container.
        available_bytes: memory that can be taken now without swapping.
    """

    cpu: str
    system: str
    total_bytes: int
    available_bytes: int


def read_machine(root: Path = Path("/")) -> Machine:
    """The machine's facts; `root` is replaced in tests by a folder with the same files."""
    meminfo = _meminfo(root / "proc/meminfo")
    total = meminfo.get("MemTotal", 0) or _sysconf_bytes()
    available = meminfo.get("MemAvailable", 0) or total // 2
    limit, used = _cgroup_memory(root / "sys/fs/cgroup")
    if limit is not None and limit < total:
        total = limit
        available = min(available, max(0, limit - used))
    return Machine(
        cpu=_cpu_name(root / "proc/cpuinfo"),
        system=f"{platform.system()} {platform.machine()}",
        total_bytes=total,
        available_bytes=available,
    )


def has_gpu(root: Path = Path("/")) -> bool:
    """Whether the system shows an NVIDIA GPU: a device, its driver's list, or Windows' devices; nothing is loaded."""
    shown = (root / "dev").glob("nvidia[0-9]*"), (root / "proc/driver/nvidia/gpus").glob("*")
    return any(path for paths in shown for path in paths) or (root / "dev/dxg").exists()


def _meminfo(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in _lines(path):
        name, _, rest = line.partition(":")
        number = rest.split()
        if number and number[0].isdigit():
            found[name] = int(number[0]) * 1024
    return found


def _cgroup_memory(folder: Path) -> tuple[int | None, int]:
    """The (limit, used) bytes of cgroup v2 or v1; the reclaimable file cache does not count as used."""
    for limit_name, used_name, cache_key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = _number(folder / limit_name)
        if limit is None:
            continue
        stat = (folder / used_name).with_name("memory.stat")
        cache = next((int(v) for k, _, v in (s.partition(" ") for s in _lines(stat)) if k == cache_key), 0)
        return limit, max(0, (_number(folder / used_name) or 0) - cache)
    return None, 0


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _cpu_name(path: Path) -> str:
    for line in _lines(path):
        if line.startswith(("model name", "Hardware")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _sysconf_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
