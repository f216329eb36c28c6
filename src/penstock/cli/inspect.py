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
from penstock.cli.pull import fetch


def inspect(
    model: options.Model = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    revision: options.Revision = None,
) -> None:
    """Print a model's spec, sizes, KV cost per token and generation defaults."""
    options.check_existing(model)
    fetch(model, revision)
    from penstock.assemble import find_model
    from penstock.model import inspect_checkpoint

    facts = inspect_checkpoint(find_model(model, revision))
    if json:
        print(json_format.dumps(asdict(facts), indent=2, default=_plain))
    else:
        print(facts.report())


def _plain(value: object) -> object:
    """What JSON has no type for, as its own value or its text."""
    return value.value if isinstance(value, Enum) else str(value)
