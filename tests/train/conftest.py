"""A corpus of made-up sentences, a recipe over it, and a run short enough for a unit test."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.train import Folders, Optimization, Recipe, Shape, TextSource

SENTENCE = "the old river ran past a quiet mill and some boys threw stones into its brown water while rain fell"


def made_up_text(seed: int, num_paragraphs: int) -> str:
    rng = np.random.default_rng(seed)
    sentences = [" ".join(rng.choice(SENTENCE.split(), 9)).capitalize() + "." for _ in range(4 * num_paragraphs)]
    return "\n\n".join(" ".join(sentences[4 * index : 4 * index + 4]) for index in range(num_paragraphs))


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        name="tiny",
        text=(
            TextSource("river", ("river_*.jsonl",), 0.75, held_out=("held.jsonl",), license="public domain"),
            TextSource("notes", ("notes.jsonl",), 0.25, hold_out_every=10),
        ),
        shape=Shape(
            vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_size=48, context_tokens=48
        ),
        optimization=Optimization(warmup_steps=3, num_rows=2),
        limits="Too small to say anything.",
    )


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for index in range(2):
        write_rows(
            corpus / f"river_{index}.jsonl", [{"text": made_up_text(index, 12), "title": "River", "author": "A"}]
        )
    write_rows(corpus / "held.jsonl", [{"text": made_up_text(9, 8)}])
    write_rows(corpus / "notes.jsonl", [{"text": made_up_text(20 + n, 4), "title": f"note {n}"} for n in range(20)])
    return Folders(corpus, tmp_path / "run")
