"""Tables of pages that a benchmark writes anew: what lies between two marks, and when and on what it was measured.

Knows nothing about figures. Invariant: nothing outside the marks changes, and a page without them is refused before
anything is lost.
"""

from __future__ import annotations

import re
from pathlib import Path

from penstock.bench import Origin


def marks(name: str) -> re.Pattern[str]:
    """What surrounds a table."""
    return re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)


def expect_table(page: Path | None, name: str) -> None:
    """Passes a page that has such a table, or none: to be asked before minutes of measuring.

    Raises:
        SystemExit: the page is not there, or has no such table.
    """
    if page is None:
        return
    count = len(marks(name).findall(page.read_text())) if page.exists() else 0
    if count != 1:
        raise SystemExit(f"error: {page} has {count} tables named {name!r}. hint: <!-- table: {name} --> <!-- end -->.")


def fill(page: Path, name: str, text: str, origin: Origin | None = None) -> None:
    """Writes a table of a page, between `<!-- table: NAME -->` and `<!-- end -->`, with the line of its origin.

    Raises:
        SystemExit: the page is not there, or has no such table.
    """
    expect_table(page, name)
    head = "" if origin is None else f"{measured_on(origin)}\n\n"
    page.write_text(marks(name).sub(lambda match: f"{match[1]}{head}{text.strip()}\n{match[2]}", page.read_text()))


def measured_on(origin: Origin) -> str:
    """When and on what, as a sentence."""
    gib = origin.memory_bytes / 2**30
    return (
        f"Measured {origin.date}, commit {origin.commit or 'unknown'}: {origin.cpu}, {origin.threads} threads, "
        f"{gib:.0f} GiB, tier {origin.tier}."
    )
