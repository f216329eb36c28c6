"""`penstock train`: train a small model by a recipe, showing progress, and publish it as a checkpoint folder.

Knows nothing about tensors. Invariant: Ctrl-C loses at most the steps since the last save; the same command continues.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.core import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from penstock.train import Budget, Record


def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A TOML recipe, such as examples/bundled_model.toml.")
    ],
    corpus: Annotated[Path, typer.Option(metavar="DIR", help="The folder that the recipe's file names are in.")],
    run: Annotated[Path, typer.Option(metavar="DIR", help="Where checkpoints and the log are kept.")],
    minutes: Annotated[float, typer.Option(metavar="X", min=0, help="Time budget, learning rate decay included.")] = 0,
    steps: Annotated[int, typer.Option(metavar="N", min=0, help="Step budget, instead of minutes.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Publish the model here; <run>/model if left out.")
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Compute threads.")] = 2,
) -> None:
    """Train a small model and its tokenizer; resumable."""
    for needed in ("torch", "matplotlib"):
        if importlib.util.find_spec(needed) is None:
            raise ConfigError(
                f"training needs {needed}, which is not installed.", hint="pip install 'penstock[train]'."
            )
    from penstock.train import Budget, Folders, publish_model, read_recipe, train_model, use_threads

    use_threads(threads)
    plan = read_recipe(recipe)
    folders = Folders(corpus, run)
    budget = Budget(minutes=minutes, max_steps=steps)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("preparing", total=1.0)

        def report(event: str | Record) -> None:
            if isinstance(event, str):
                console.print(event)
            elif event.kind == "step":
                progress.update(bar, completed=spent(budget, event), description=describe(event))
            else:
                console.print(describe(event))

        train_model(plan, folders, budget, report)
    measured = publish_model(plan, folders, out or run / "model")
    for name, found in measured.quality.items():
        console.print(f"{name}: perplexity {found['perplexity']:.2f}, {found['bits_per_byte']:.3f} bits per byte")
    print(out or run / "model")


def describe(record: Record) -> str:
    """One line of a record: its kind, its step and its losses."""
    losses = {name: value for name, value in record.values.items() if name not in ("rate", "norm", "spent_s")}
    return f"{record.kind} {record.step}: " + ", ".join(f"{name} {value:.3f}" for name, value in losses.items())


def spent(budget: Budget, record: Record) -> float:
    """The share of the budget that is spent after a step."""
    if budget.max_steps:
        return record.step / budget.max_steps
    return record.values["spent_s"] / (60 * budget.minutes)
