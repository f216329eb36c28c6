"""Memory that this process holds of a mapped file."""

from pathlib import Path


def resident(path: Path) -> int:
    """Resident bytes of the maps of a file, from /proc."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total
