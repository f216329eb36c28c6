"""`penstock inspect MODEL`: what a checkpoint is and what it costs, without loading weights.

Knows nothing about serving. Invariant: reads headers and metadata only.
"""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from enum import Enum
from typing import Annotated

import typer

from penstock.cli import options


def inspect(
    model: options.Model = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    revision: options.Revision = None,
) -> None:
    """Print a model's spec, sizes, KV cost per token and generation defaults."""
    options.check_existing(model)
    from penstock.assemble import find_model
    from penstock.core import SamplingParams
    from penstock.model import inspect_checkpoint, open_checkpoint

    path = find_model(model, revision)
    facts = inspect_checkpoint(path)
    # a bare config.json says nothing about sampling
    defaults = asdict(open_checkpoint(path).generation_defaults if facts.total_bytes else SamplingParams())
    if json:
        shown = {**asdict(facts), "generation_defaults": defaults}
        print(json_format.dumps(shown, indent=2, default=_plain))
        return
    print(facts.report())
    own = asdict(SamplingParams())
    recommended = ", ".join(f"{name} {value}" for name, value in defaults.items() if value != own[name])
    print(f"{'sampling':<13} {recommended or 'nothing recommended'}")


def _plain(value: object) -> object:
    """What JSON has no type for, as its own value or its text."""
    return value.value if isinstance(value, Enum) else str(value)
