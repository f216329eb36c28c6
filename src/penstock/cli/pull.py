"""`penstock pull REF`: fetch a model from the hub, with progress, and check every file.

Knows nothing about the hub's protocol. Invariant: stdout is the local path and nothing else; what an interrupted pull
fetched is kept for the next.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli import options

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from penstock.model.transfer import RemoteFile

Name = Annotated[
    str,
    typer.Argument(metavar="REF", help="owner/name, owner/name:Q4_K_M or owner/name/file.gguf."),
]


def pull(model: Name, revision: options.Revision = None) -> None:
    """Fetch a model from the hub into the cache and check it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from penstock.kv import human_bytes
    from penstock.model.hub import Hub, Watcher, hub_reference

    reference = hub_reference(model)
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bars = Bars(progress)
        found = Hub().pull(reference, revision, Watcher(bars.begin, bars.report, time.sleep))
    total = sum(record.size for record in found.files.values())
    options.tell(
        f"{reference}: {len(found.files)} files, {human_bytes(total)}, {human_bytes(found.fetched_bytes)} fetched; "
        f"commit {found.commit}, every digest checked"
    )
    print(found.path)


class Bars:
    """One bar a file, and what is left of all of them."""

    def __init__(self, progress: Progress) -> None:
        """No bars yet."""
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._whole: TaskID | None = None
        self._done: dict[str, int] = {}

    def begin(self, files: tuple[RemoteFile, ...]) -> None:
        """Shows a bar for all files."""
        self._whole = self._progress.add_task(f"{len(files)} files", total=sum(file.size for file in files))
        self._done = {file.path: 0 for file in files}
        self._sizes = {file.path: file.size for file in files}

    def report(self, path: str, count: int) -> None:
        """Moves the bars: `count` bytes of the file are on disk."""
        if path not in self._tasks:
            self._tasks[path] = self._progress.add_task(path[-40:], total=self._sizes[path])
        self._done[path] = count
        self._progress.update(self._tasks[path], completed=count, visible=count < self._sizes[path])
        if self._whole is not None:
            self._progress.update(self._whole, completed=sum(self._done.values()))
