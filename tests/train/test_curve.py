"""The log as a history: later records stand, foreign rows are named."""

import json
from pathlib import Path

import pytest

from penstock.core.errors import ConfigError
from penstock.train.curve import read_history, smoothed


def test_a_step_taken_twice_counts_once(tmp_path: Path) -> None:
    rows = [{"kind": "step", "step": step, "loss": loss} for step, loss in ((1, 5.0), (2, 4.0), (2, 4.5))]
    rows.append({"kind": "evaluation", "step": 2, "books": 3.5})
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    history = read_history(tmp_path / "log.jsonl")
    assert history.steps == {1: 5.0, 2: 4.5}
    assert history.evaluations == {"books": {2: 3.5}}


@pytest.mark.parametrize("row", ["{", "3", '{"kind": "step", "step": 1}'])
def test_foreign_rows_are_named(tmp_path: Path, row: str) -> None:
    (tmp_path / "log.jsonl").write_text(row)
    with pytest.raises(ConfigError, match=r"log\.jsonl:1"):
        read_history(tmp_path / "log.jsonl")


def test_smoothing_is_a_trailing_mean() -> None:
    assert smoothed([4.0, 2.0, 0.0]) == [4.0, 3.0, 2.0]
    assert smoothed([1.0] * 30 + [0.0] * 60)[-1] == 0.0
