"""`penstock list`: the models in the hub client's cache.

Knows nothing about how they got there. Invariant: stdout is the table, or JSON; an empty cache is an empty table.
"""

from __future__ import annotations

import json as json_format
import time
from dataclasses import asdict
from typing import Annotated

import typer

from penstock.cli import options
from penstock.cli.doctor import columns


def list_models(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models in the cache: revision, size, kind, last use."""
    from penstock.kv import human_bytes
    from penstock.model import cache_folder
    from penstock.model.cached import interrupted, list_models

    cache = cache_folder()
    found = list_models(cache)
    if json:
        print(json_format.dumps([asdict(model) for model in found], indent=2))
        return
    rows = [("name", "revision", "size", "kind", "last used", "digests")]
    for model in found:
        names = ", ".join(model.revisions)
        revision = f"{model.commit[:12]} ({names})" if names else model.commit[:12]
        checked = "kept" if model.checked else "none"
        rows.append((model.name, revision, human_bytes(model.size_bytes), model.kind, ago(model.used_s), checked))
    print(columns(rows))
    for repo, size in interrupted(cache):
        options.tell(f"{repo}: an interrupted pull keeps {human_bytes(size)}; pull continues it, rm removes it")


def ago(then_s: float) -> str:
    """How long ago, in the largest unit that is at least one."""
    seconds = max(0.0, time.time() - then_s)
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"
