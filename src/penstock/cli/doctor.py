"""`penstock doctor`: the machine, the compute tier and the configuration as it would be used.

Knows nothing about models. Invariant: prints what `serve` would resolve, from the same code, and where each value
comes from.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import typer

from penstock.core import ConfigError


def doctor(context: typer.Context) -> None:
    """Print the machine and the resolved settings."""
    from penstock import __version__
    from penstock.assemble import BUNDLED
    from penstock.backend.cpu import default_threads, huge_pages, numa_layout, read_machine, shown_layout
    from penstock.kv import human_bytes

    machine = read_machine()
    facts = [
        ("penstock", __version__),
        ("python", platform.python_version()),
        ("system", machine.system),
        ("processor", machine.cpu),
        ("memory", f"{human_bytes(machine.available_bytes)} available of {human_bytes(machine.total_bytes)}"),
        ("threads", str(default_threads())),
        ("nodes", shown_layout(numa_layout(default_threads()))),
        ("huge pages", huge_pages()),
        ("tier", tier_line()),
        ("gpu", gpu_line()),
        ("bundled model", str(BUNDLED) if (BUNDLED / "config.json").is_file() else "missing: reinstall penstock"),
        ("settings file", str(context.obj or "none")),
    ]
    print(columns(facts))
    print("\nserve, as it would start now (flag > environment > settings file > default):")
    print(columns([("setting", "value", "from"), *resolved(context)]))


def tier_line() -> str:
    """The compute tier in force and what else this machine runs.

    Raises:
        ConfigError: PENSTOCK_ISA names a tier that it does not run.
    """
    from penstock import _native

    try:
        chosen = str(_native.kernels().name)
    except ValueError as error:
        raise ConfigError(f"PENSTOCK_ISA: {error}.") from None
    return f"{chosen} (this machine runs {', '.join(_native.tiers())}; PENSTOCK_ISA lowers it)"


def gpu_line() -> str:
    """Whether a GPU is here and can be computed on; PyTorch is imported only where the system shows one."""
    from importlib.util import find_spec

    from penstock.backend.cpu import has_gpu

    if not has_gpu():
        return "none"
    if find_spec("torch") is None:
        return "here; PyTorch is not installed: pip install 'penstock[gpu]'"
    from penstock.assemble import LoadOptions, choose_device

    found = choose_device(LoadOptions(), lambda line: None)
    return "here, computed on by default" if found == "cuda" else "here; PyTorch sees none"


def columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Left-aligned columns, two spaces apart; never cut, whatever the terminal's width."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


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
