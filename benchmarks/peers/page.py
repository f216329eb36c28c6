"""The page of a run: what was measured on, the tables, the plots, and what was not measured.

Knows nothing about how anything was measured. Invariant: the page says which machine, commit and date its figures are
of, and a quick run says that its figures mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.bench import MachineLimits, Origin, Table, machine_table, markdown, spread


def limits_table(before: MachineLimits, after: MachineLimits) -> Table:
    """The machine's limits at both ends of the run: how far they drifted is how far figures can be trusted."""
    later = {limit.name: limit.rate for limit in after.limits}
    cells = [(*row[:2], spread(later.get(row[0])), row[2]) for row in machine_table(before).rows]
    note = f"Tier {before.tier}. Shares are of the limits before the run."
    return Table("The machine's limits", ("limit", "before the run", "after it", "unit"), tuple(cells), note)


def page(origin: Origin, quick: bool, tables: Sequence[Table], plots: Sequence[Path]) -> str:
    """The whole page in Markdown."""
    gib = origin.memory_bytes / 2**30
    lines = [
        "# penstock beside its peers",
        "",
        f"{origin.date}, commit {origin.commit or 'unknown'}, {origin.cpu}, {origin.threads} threads, {gib:.0f} GiB, "
        f"{origin.system}. Random weights of Qwen3-0.6B's shape. What is measured, and how: docs/peers.md.",
        "",
    ]
    if quick:
        lines += ["A quick run of two layers and few steps: **these figures mean nothing**.", ""]
    lines += [f"![{plot.stem}]({plot.name})" for plot in plots]
    return "\n".join([*lines, "", *(markdown(table) for table in tables if table.rows)])
