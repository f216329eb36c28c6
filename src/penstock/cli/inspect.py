"""`penstock inspect MODEL`: what a checkpoint is and what it costs, without loading weights.

Knows nothing about serving. Invariant: reads headers, metadata and the tokenizer only.
"""

from __future__ import annotations

import json as json_format
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli import options
from penstock.cli.pull import fetch
from penstock.core import ModelFileError


def inspect(
    model: options.Model = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    revision: options.Revision = None,
) -> None:
    """Print a model's spec, sizes, KV cost per token, generation defaults and end tokens."""
    options.check_existing(model)
    fetch(model, revision)
    from penstock.assemble import find_model, model_name
    from penstock.model import inspect_checkpoint

    path = find_model(model, revision, options.tell)
    facts = inspect_checkpoint(path)
    facts = replace(facts, name=model_name(model, facts.name))
    ends = _ends(path) if facts.total_bytes else []
    if json:
        print(json_format.dumps({**asdict(facts), "end_tokens": ends}, indent=2, default=_plain))
        return
    print(facts.report())
    if ends:
        shown = ", ".join(f"{end['text']} ({end['id']})" for end in ends)
        print(f"{'ends at':<13} {shown}")


def _ends(path: Path) -> list[dict[str, Any]]:
    """The tokens that end an answer; [] where there is no tokenizer to ask."""
    from penstock.assemble import read_tokenizer
    from penstock.model import open_checkpoint

    checkpoint = open_checkpoint(path)
    try:
        tokenizer = read_tokenizer(checkpoint)
    except ModelFileError:
        return []
    ids = sorted({*checkpoint.eos_token_ids, *tokenizer.eos_token_ids})
    return [{"id": id, "text": tokenizer.token_text(id)} for id in ids]


def _plain(value: object) -> object:
    """What JSON has no type for, as its own value or its text."""
    return value.value if isinstance(value, Enum) else str(value)
