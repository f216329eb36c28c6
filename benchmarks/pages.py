"""Tables of pages that a benchmark writes anew: what lies between two marks, and when and on what it was measured.

Knows nothing about figures. Invariant: nothing outside the marks changes, and a page without them is refused before
anything is lost.
"""

from __future__ import annotations

import re
from pathlib import Path

from penstock.bench import Origin


def fill(page: Path, name: str, text: str, origin: Origin | None = None) -> None:
    """Writes a table of a page, between `<!-- table: NAME -->` and `<!-- end -->`, with the line of its origin.

    Raises:
        SystemExit: the page is not there, or has no such table.
    """
    if not page.exists():
        raise SystemExit(f"{page} is not there. hint: a page that has <!-- table: {name} -->.")
    marks = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    head = "" if origin is None else f"{measured_on(origin)}\n\n"
    found, count = marks.subn(lambda match: f"{match[1]}{head}{text.strip()}\n{match[2]}", page.read_text())
    if count != 1:
        raise SystemExit(f"{page} has {count} tables named {name!r}, one is needed. hint: <!-- table: {name} -->.")
    page.write_text(found)


def measured_on(origin: Origin) -> str:
    """When and on what, as a sentence."""
    gib = origin.memory_bytes / 2**30
    return (
        f"Measured {origin.date}, commit {origin.commit or 'unknown'}: {origin.cpu}, {origin.threads} threads, "
        f"{gib:.0f} GiB, tier {origin.tier}."
    )
