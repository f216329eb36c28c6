"""What `penstock bench` prints: tables on stdout, progress and warnings on stderr.

Knows nothing about what figures mean. Invariant: a run that is not valid is never shown without saying so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.cli import options
from penstock.core import ConfigError

if TYPE_CHECKING:
    from penstock.bench import LoadRun, Progress, Record, Table


def show(tables: Sequence[Table]) -> None:
    """Prints tables: boxes in a terminal, Markdown elsewhere."""
    from penstock import bench

    if not sys.stdout.isatty():
        print("\n".join(bench.markdown(table) for table in tables), flush=True)
        return
    from rich.console import Console
    from rich.table import Table as Box

    console = Console(highlight=False, markup=False)
    for table in tables:
        box = Box(title=table.title, caption=table.note or None, title_justify="left", caption_justify="left")
        for index, name in enumerate(table.head):
            box.add_column(name, justify="left" if index == 0 else "right")
        for row in table.rows:
            box.add_row(*row)
        console.print(box)


def warn(runs: Sequence[LoadRun]) -> None:
    """Says each kind of warning once, as the last run that has it says it, and how many of several runs have it."""
    said: dict[int, list[str]] = {}
    for run in runs:
        for one in run.pitfalls:
            said.setdefault(one.number, []).append(one.text)
    for number, texts in sorted(said.items()):
        share = f" (in {len(texts)} of {len(runs)} runs; of the last of them)" if len(runs) > 1 else ""
        options.tell(f"warning {number}{share}: {texts[-1]}")


def check_writable(json: Path | None, html: Path | None) -> None:
    """Passes files that can be written, before anything that takes time.

    Raises:
        ConfigError: one can't, or there is no plotting library for a report.
    """
    if html is not None and find_spec("matplotlib") is None:
        raise ConfigError(
            "reports need matplotlib, which is not installed.", param="html", hint="pip install 'penstock[bench]'."
        )
    for path in (json, html):
        if path is None:
            continue
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ConfigError(f"{path} can't be written.", hint="choose another path.")


def save(record: Record, json: Path | None, html: Path | None) -> None:
    """Writes the record, and the report, where they are wanted.

    Raises:
        ConfigError: a file can't be written.
    """
    from penstock import bench

    if json is not None:
        bench.write_record(json, record)
        options.tell(f"record: {json}")
    if html is not None:
        report(html, [record])


def report(html: Path, records: Sequence[Record]) -> None:
    """Writes the report.

    Raises:
        ConfigError: there is no plotting library, or the file can't be written.
    """
    try:
        from penstock.bench import write_report
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"reports need {error.name}, which is not installed.", param="html", hint="pip install 'penstock[bench]'."
        ) from None
    write_report(html, records)
    options.tell(f"report: {html}")


@contextmanager
def progress(what: str) -> Iterator[Callable[[Progress], None] | None]:
    """A line that moves while a run is on, in a terminal; elsewhere there is none."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
    with Bars(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as bars:
        task = bars.add_task(what, said="")

        def report(at: Progress) -> None:
            failed = at.num_ended - at.num_ok
            said = f"{at.at_s:.0f} s, {at.num_sent} of {at.num_asks} sent, {at.num_sent - at.num_ended} in flight"
            bars.update(
                task,
                total=at.num_asks,
                completed=at.num_ended,
                said=said + (f", {failed} not well" if failed else ""),
                refresh=True,
            )

        yield report
