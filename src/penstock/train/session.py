"""A whole run: prepare the text, train, and publish the result as a checkpoint folder with card and curve.

Knows nothing about the command line. Invariant: everything it keeps lies in the run's folder, and calling it again
with the same arguments continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from penstock.train.batches import BatchSource, Domain
from penstock.train.card import Measured, model_card
from penstock.train.checkpoint import Progress, load_checkpoint
from penstock.train.curve import draw_curve, read_history, smoothed
from penstock.train.evaluate import mean_loss, quality, rounded_to_bf16
from penstock.train.export import export
from penstock.train.loop import Budget, Record, Trainer
from penstock.train.network import Network, initial_weights
from penstock.train.recipe import Recipe
from penstock.train.tables import Tables

QUICK_WINDOWS = 12  # of each held-out text, looked at while training


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the text is and where the run keeps its files."""

    corpus: Path
    run: Path


def train_model(recipe: Recipe, folders: Folders, budget: Budget, report: Callable[[str | Record], None]) -> Progress:
    """Train by `recipe` until `budget` is spent, continuing what lies in the run's folder, and return how far it is.

    `report` hears a sentence for each stage of preparation and then a Record for each step and evaluation.

    Raises:
        ConfigError: text or checkpoint cannot be used, or training diverges.
    """
    tables = Tables(recipe, folders.corpus, folders.run / "tables", report)
    domains = [Domain(tables.learned(source), source.share) for source in recipe.text]
    held_out = [tables.held_out(source) for source in recipe.text]
    row_tokens = recipe.shape.context_tokens + 1
    source = BatchSource(domains, row_tokens, recipe.optimization.num_rows, recipe.seed)
    network = Network(recipe.shape, initial_weights(recipe.shape, recipe.seed))
    trainer = Trainer(network, source, recipe.optimization, folders.run)

    def evaluate(current: Network) -> dict[str, float]:
        return {part.name: mean_loss(current, part.tokens, QUICK_WINDOWS) for part in held_out}

    trainer.train(budget, evaluate, report)
    return trainer.progress


def publish_model(recipe: Recipe, folders: Folders, out: Path) -> Measured:
    """Write the run's last checkpoint to `out` as bf16 with tokenizer, card and curve, and return what was measured.

    Raises:
        ConfigError: the run has no checkpoint of this recipe's shape yet.
    """
    tables = Tables(recipe, folders.corpus, folders.run / "tables", lambda _: None)
    network = Network(recipe.shape, initial_weights(recipe.shape, recipe.seed))
    progress = load_checkpoint(folders.run / "checkpoint.safetensors", network)
    network = rounded_to_bf16(network)
    history = read_history(folders.run / "log.jsonl")
    arrays = [path for source in recipe.text for path in tables.learned(source)]
    measured = Measured(
        num_parameters=sum(weight.numel() for weight in network.weights.values()),
        num_steps=progress.step,
        minutes=progress.spent_s / 60,
        num_corpus_tokens=sum(len(np.load(path, mmap_mode="r", allow_pickle=False)) for path in arrays),
        last_loss=smoothed(list(history.steps.values()))[-1],
        quality={source.name: quality(network, tables.held_out(source)) for source in recipe.text},
    )
    export(network, tables.tokenizer, out)
    draw_curve(history, folders.run / "loss.png")
    (out / "MODEL_CARD.md").write_text(model_card(recipe, measured), encoding="utf-8")
    return measured


def use_threads(num_threads: int) -> None:
    """Compute with `num_threads` threads in this process from now on."""
    torch.set_num_threads(num_threads)
