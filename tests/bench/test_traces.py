"""Azure and Mooncake traces: read to the row, cut and scaled in time and in rate; broken ones refused."""

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from penstock.bench import traces
from penstock.bench.traces import Scaling, TraceRow, fitting, read_azure, read_mooncake, scaled
from penstock.core import ConfigError

DATA = Path(__file__).parents[3] / "shared" / "data" / "traces"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published traces are not here")
HEADING = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def rows_of(times, **fields) -> list[TraceRow]:
    return [TraceRow(float(at), 10 + index, 5, **fields) for index, at in enumerate(times)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def azure(folder: Path, text: str) -> Path:
    path = folder / "azure.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_azure_rows_start_at_zero_and_are_in_order(tmp_path: Path) -> None:
    path = azure(
        tmp_path,
        HEADING
        + "2023-11-16 18:15:50.5000000,396,109\n2023-11-16 18:15:46.2500000,374,0\n2023-11-16 18:15:46.25,5,7\n",
    )
    assert read_azure(path) == [TraceRow(0.0, 374, 1), TraceRow(0.0, 5, 7), TraceRow(4.25, 396, 109)]


@pytest.mark.parametrize(
    "text",
    ["", "a,b,c\n", HEADING, HEADING + "x,1,2\n", HEADING + "2023-11-16 18:15:46.68,1\n"]
    + [HEADING + f"2023-11-16 18:15:46.68,{counts}\n" for counts in ("0,1", "-5,1", "1,-1", "1.5,2", "9" * 30 + ",1")]
    + [HEADING + "0001-01-01 00:00:00,1,1\n9999-01-01 00:00:00,1,1\n", HEADING + "٣,1,1\n"],
    ids=range(12),
)
def test_azure_files_that_are_broken_are_refused_in_a_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_azure(azure(tmp_path, text))
    assert "\n" not in str(error.value)
    assert error.value.hint


def mooncake(folder: Path, *rows: dict) -> Path:
    path = folder / "mooncake.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GOOD = {"timestamp": 3000, "input_length": 1025, "output_length": 0, "hash_ids": [7, 8, 9]}


def test_mooncake_rows_keep_their_blocks(tmp_path: Path) -> None:
    path = mooncake(tmp_path, GOOD, GOOD | {"timestamp": 0.5, "input_length": 512, "hash_ids": [7], "output_length": 3})
    assert read_mooncake(path) == [TraceRow(0.0005, 512, 3, (7,)), TraceRow(3.0, 1025, 1, (7, 8, 9))]


@pytest.mark.parametrize(
    "wrong",
    [
        {"timestamp": -1},
        {"timestamp": 1e300},
        {"timestamp": "3"},
        {"timestamp": None},
        {"input_length": 0},
        {"input_length": 10**12},
        {"input_length": 512},
        {"output_length": -1},
        {"output_length": 2.5},
        {"hash_ids": None},
        {"hash_ids": [1, 2, -3]},
        {"hash_ids": [1, 2, 2**63]},
        {"hash_ids": [1, 2, True]},
    ],
    ids=str,
)
def test_mooncake_rows_that_are_broken_are_refused_in_a_line(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(ConfigError, match="line 2") as error:
        read_mooncake(mooncake(tmp_path, GOOD, GOOD | wrong))
    assert "\n" not in str(error.value)


def test_more_blocks_than_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MAX_TRACE_BLOCKS", 5)
    with pytest.raises(ConfigError, match="past 5 blocks"):
        read_mooncake(mooncake(tmp_path, GOOD, GOOD))


def test_an_empty_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rows"):
        read_mooncake(mooncake(tmp_path))


@needs_data
def test_the_published_azure_trace() -> None:
    rows = read_azure(DATA / "azure_llm_2023_conv_0-30min.csv.gz")
    assert len(rows) == 10_108
    assert rows[0] == TraceRow(0.0, 374, 44)
    assert rows[1].arrival_s == pytest.approx(4.314579, abs=1e-9)
    assert rows[-1].arrival_s < 1800.0


@needs_data
def test_the_published_mooncake_traces_share_their_beginnings() -> None:
    """A block's name is that of all before it: it never comes after different ones."""
    for name, count, most in (("conversation", 5719, 5719), ("synthetic", 1925, 6)):
        path = DATA / f"mooncake_{name}_first.jsonl.gz"
        rows = read_mooncake(path)
        assert len(rows) == count
        with gzip.open(path) as file:
            assert sum(row.prompt_tokens for row in rows) == sum(json.loads(line)["input_length"] for line in file)
        before: dict[int, int | None] = {}
        for row in rows:
            for parent, block in zip((None, *row.blocks), row.blocks, strict=False):
                assert before.setdefault(block, parent) == parent
        shared = Counter(block for row in rows for block in row.blocks)
        assert max(shared.values()) == most


def test_time_is_scaled_and_lengths_are_not() -> None:
    rows = rows_of([0.0, 10.0, 30.0])
    found = scaled(rows, Scaling(time_factor=0.1), rng())
    assert [row.arrival_s for row in found] == [0.0, 1.0, 3.0]
    assert [row.prompt_tokens for row in found] == [10, 11, 12]


def test_a_part_is_cut_out_and_begins_at_zero() -> None:
    found = scaled(rows_of([0, 5, 10, 15, 20]), Scaling(begin_s=5, duration_s=10), rng())
    assert [(row.arrival_s, row.prompt_tokens) for row in found] == [(0.0, 11), (5.0, 12)]
    longer = scaled(rows_of([0, 5, 10]), Scaling(begin_s=5, duration_s=1000), rng())
    assert [row.arrival_s for row in longer] == [0.0, 5.0]


def test_a_part_of_the_rate_keeps_each_by_chance_where_it_was() -> None:
    rows = rows_of(range(4000))
    found = scaled(rows, Scaling(rate_factor=0.25), rng())
    assert abs(len(found) - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5
    assert len(found) != 1000  # not made to fit
    assert all(row in rows for row in found)


def test_more_than_the_rate_lays_turned_copies_over_it_that_share_nothing() -> None:
    rows = rows_of(range(100), blocks=(1, 2))
    found = scaled(rows, Scaling(rate_factor=2.5), rng())
    copies = Counter(row.copy for row in found)
    assert copies[0] == copies[1] == 100
    assert 25 < copies[2] < 75
    assert [row.arrival_s for row in found if row.copy == 0] == [row.arrival_s for row in rows]
    turned = [row.arrival_s for row in found if row.copy == 1]
    assert turned != [row.arrival_s for row in rows]
    assert all(0 <= at <= 99 for at in turned)
    gaps = np.diff(turned)
    assert (np.isclose(gaps, 1.0) | (gaps < 1.0)).all()  # turned, not drawn anew
    assert found == scaled(rows, Scaling(rate_factor=2.5), rng())
    assert found != scaled(rows, Scaling(rate_factor=2.5), rng(1))


def test_copies_keep_the_trace_s_bursts_which_shorter_times_would_steepen() -> None:
    rows = rows_of([at + 60 * minute for minute in range(50) for at in np.linspace(0, 6, 40)])

    def peak(found: list[TraceRow]) -> int:
        return max(Counter(int(row.arrival_s) for row in found).values())

    assert peak(scaled(rows, Scaling(time_factor=0.5), rng())) >= 13
    assert peak(scaled(rows, Scaling(rate_factor=2.0), rng(2))) <= 16


def test_too_many_copies_and_nothing_left_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="none of the trace's 3 rows"):
        scaled(rows_of([0, 1, 2]), Scaling(begin_s=50), rng())
    monkeypatch.setattr(traces, "MAX_TRACE_ROWS", 10)
    with pytest.raises(ConfigError, match="over 10"):
        scaled(rows_of([0, 1, 2]), Scaling(rate_factor=4), rng())


@pytest.mark.parametrize(
    "wrong",
    [
        {"time_factor": 0},
        {"time_factor": float("nan")},
        {"rate_factor": 0},
        {"rate_factor": 1000000000.0},
        {"begin_s": -1},
        {"duration_s": 0},
    ],
    ids=str,
)
def test_scalings_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Scaling(**wrong)


def test_what_does_not_fit_is_left_out_and_counted() -> None:
    rows = [TraceRow(0.0, 10, 5), TraceRow(1.0, 96, 5), TraceRow(2.0, 95, 5)]
    assert fitting(rows, 100) == ([rows[0], rows[2]], 1)
    assert fitting(rows, None, 11) == (rows[1:], 1)
    assert fitting(rows, None) == (rows, 0)
    with pytest.raises(ConfigError, match="none of 3"):
        fitting(rows, 14)
