"""`penstock pull REF`: fetch a model from the hub, with progress, and check every file.

Knows nothing about the hub's protocol. Invariant: stdout is the local path and nothing else; what an interrupted pull
fetched is kept for the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli import options

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from penstock.model.hub import Watcher
    from penstock.model.transfer import RemoteFile

Name = Annotated[
    str,
    typer.Argument(metavar="REF", help="owner/name, owner/name:Q4_K_M or owner/name/file.gguf."),
]


def pull(model: Name, revision: options.Revision = None) -> None:
    """Fetch a model from the hub into the cache and check it."""
    from penstock.kv import human_bytes
    from penstock.model.hub import Hub, hub_reference

    reference = hub_reference(model)
    with bars() as watcher:
        found = Hub().pull(reference, revision, watcher)
    total = sum(record.size for record in found.files.values())
    options.tell(
        f"{reference}: {len(found.files)} files, {human_bytes(total)}, {human_bytes(found.fetched_bytes)} fetched; "
        f"commit {found.commit}, every digest checked"
    )
    print(found.path)


def fetch(model: str | None, revision: str | None) -> None:
    """Pulls a hub id that is not here yet, with progress; any other name is left to the loader."""
    from penstock.model import find_pulled, parse_reference

    if model is None or Path(model).expanduser().exists() or parse_reference(model) is None:
        return
    if find_pulled(model, revision) is None:
        from penstock.model.hub import resolve_model

        with bars(f"pulling {model}: ") as watcher:
            resolve_model(model, revision, watcher=watcher)


@contextmanager
def bars(said: str = "") -> Iterator[Watcher]:
    """Progress bars on a terminal; where there is none and `said` is given, one line when a pull begins."""
    from huggingface_hub.utils import logging as client_logging
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from penstock.kv import human_bytes
    from penstock.model.hub import Watcher

    client_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # every failure is one line, and it is ours
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        shown = Bars(progress)

        def begin(files: tuple[RemoteFile, ...]) -> None:
            if said and not console.is_terminal:
                options.tell(f"{said}{len(files)} files, {human_bytes(sum(file.size for file in files))}")
            shown.begin(files)

        yield Watcher(begin, shown.report, time.sleep)


class Bars:
    """One bar a file, and what is left of all of them."""

    def __init__(self, progress: Progress) -> None:
        """No bars yet."""
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._whole: TaskID | None = None
        self._done: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

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
