"""`penstock verify [REF]`: read what was pulled, whole, and compare digests.

Knows nothing about the network. Invariant: every file that differs is named, and the exit code is 78 if there is one.
"""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli import options

BAD_FILE = 78


def verify(
    model: Annotated[
        str | None, typer.Argument(metavar="[REF]", help="A hub id; everything that was pulled if left out.")
    ] = None,
    revision: options.Revision = None,
) -> None:
    """Check every byte of what was pulled against its digest."""
    from rich.console import Console

    from penstock.kv import human_bytes
    from penstock.model import cache_folder
    from penstock.model.cached import verify as read_whole
    from penstock.model.hub import check_revision, hub_reference

    reference = hub_reference(model) if model is not None else None
    if reference is not None:
        check_revision(reference, revision)
    console = Console(stderr=True)
    with console.status("reading") as status:
        found = read_whole(cache_folder(), reference, revision, lambda path: status.update(f"reading {path}"))
    for each in found:
        sound = "ok" if not each.faults else f"{len(each.faults)} of its files differ"
        print(f"{each.repo} {each.commit[:12]}: {sound}, {each.num_files} files, {human_bytes(each.num_bytes)}")
        for fault in each.faults:
            print(f"  {fault}")
    if not found:
        options.tell("nothing was pulled here")
    if any(each.faults for each in found):
        options.tell("error: files differ from what was pulled. hint: penstock pull mends them.")
        raise typer.Exit(BAD_FILE)
