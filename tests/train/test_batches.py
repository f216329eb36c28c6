"""Rows by step number: repeatable, real text, in the shares asked for."""

from pathlib import Path

import numpy as np
import pytest

from penstock.core.errors import ConfigError
from penstock.train.batches import BatchSource, Domain


@pytest.fixture
def domains(tmp_path: Path) -> list[Domain]:
    np.save(tmp_path / "a.npy", np.arange(0, 400, dtype=np.uint16))
    np.save(tmp_path / "b.npy", np.arange(400, 500, dtype=np.uint16))
    np.save(tmp_path / "c.npy", np.arange(1000, 1100, dtype=np.uint16))
    return [Domain((tmp_path / "a.npy", tmp_path / "b.npy"), 0.75), Domain((tmp_path / "c.npy",), 0.25)]


def test_rows_are_runs_of_the_text(domains: list[Domain]) -> None:
    source = BatchSource(domains, row_tokens=9, num_rows=64, seed=1)
    rows = np.concatenate([source.rows(step) for step in range(40)])
    assert rows.shape == (40 * 64, 9)
    assert np.all(np.diff(rows, axis=1) == 1), "no row may cross from one array into another"
    assert {0, 391, 400, 491, 1000, 1091} <= set(rows[:, 0].tolist()), "first and last places can be drawn"
    assert abs(np.mean(rows[:, 0] >= 1000) - 0.25) < 0.04
    assert abs(np.mean(rows[rows[:, 0] < 1000, 0] >= 400) - 92 / 484) < 0.04, "arrays are drawn by their length"


def test_a_step_has_the_same_rows_whenever_it_is_asked(domains: list[Domain]) -> None:
    source = BatchSource(domains, row_tokens=9, num_rows=4, seed=1)
    later = source.rows(7)
    assert np.array_equal(BatchSource(domains, row_tokens=9, num_rows=4, seed=1).rows(7), later)
    assert not np.array_equal(source.rows(8), later)
    assert not np.array_equal(BatchSource(domains, row_tokens=9, num_rows=4, seed=2).rows(7), later)


def test_too_little_text_is_refused(domains: list[Domain]) -> None:
    with pytest.raises(ConfigError, match="row of 101 tokens"):
        BatchSource(domains, row_tokens=101, num_rows=1, seed=1)
