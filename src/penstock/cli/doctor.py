"""`penstock doctor`: the machine, the compute tier and the configuration as it would be used.

Knows nothing about models. Invariant: prints what `serve` would resolve, from the same code, and where each value
comes from.
"""

from __future__ import annotations

import platform
from typing import Any

import typer


def doctor(context: typer.Context) -> None:
    """Print the machine and the resolved settings."""
    from rich.console import Console
    from rich.table import Table

    from penstock import __version__
    from penstock.assemble import BUNDLED
    from penstock.backend.cpu import compute_tiers, default_threads, read_machine
    from penstock.kv import human_bytes

    machine = read_machine()
    tiers = compute_tiers()
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in (
        ("penstock", __version__),
        ("python", platform.python_version()),
        ("system", machine.system),
        ("processor", machine.cpu),
        ("memory", f"{human_bytes(machine.available_bytes)} available of {human_bytes(machine.total_bytes)}"),
        ("threads", str(default_threads())),
        ("tier", f"{tiers[-1]} (this machine runs {', '.join(tiers)}; PENSTOCK_ISA lowers it)"),
        ("bundled model", str(BUNDLED) if BUNDLED.is_dir() else "missing: reinstall penstock"),
    ):
        table.add_row(name, value)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print("\nserve, as it would start now (flag > environment > settings file > default):")
    settings = Table(box=None, pad_edge=False)
    for column in ("setting", "value", "from"):
        settings.add_column(column)
    for name, value, source in resolved(context):
        settings.add_row(name, value, source)
    console.print(settings)


def resolved(context: typer.Context) -> list[tuple[str, str, str]]:
    """(flag, value, source) of every setting of `serve`, without starting it."""
    parent: Any = context.parent
    command = parent.command.commands["serve"]
    trial = command.make_context("serve", [], parent=parent, resilient_parsing=False)
    rows = []
    for param in command.params:
        if param.name == "help":
            continue
        value = trial.params[param.name]
        source = trial.get_parameter_source(param.name)
        names = {"ENVIRONMENT": "environment", "DEFAULT_MAP": "settings file"}
        secret = param.name == "api_key" and value
        shown = "set, not shown" if secret else "-" if value in (None, [], ()) else str(value)
        rows.append((param.name.replace("_", "-"), shown, names.get(source.name, "default") if source else "default"))
    return rows
