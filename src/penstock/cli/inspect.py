"""`penstock inspect MODEL`: what a checkpoint is and what it costs, without loading weights.

Knows nothing about serving. Invariant: reads headers and metadata only.
"""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from typing import Annotated

import typer

from penstock.cli import options


def inspect(
    model: options.Model = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    revision: options.Revision = None,
) -> None:
    """Print a model's spec, sizes and KV cost per token."""
    options.check_existing(model)
    from penstock.assemble import find_model
    from penstock.model import inspect_checkpoint

    facts = inspect_checkpoint(find_model(model, revision))
    if json:
        typer.echo(json_format.dumps(asdict(facts), indent=2, default=str))
        return
    typer.echo(facts.report())
