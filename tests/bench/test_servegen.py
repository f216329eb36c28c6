"""Traffic drawn from published rates and lengths: the rate, the clusters and the lengths of each client."""

import json
from pathlib import Path

import numpy as np
import pytest

from penstock.bench.arrivals import GammaGaps, WeibullGaps
from penstock.bench.servegen import RateWindow, client_times, clipped, read_lengths, read_rates, synthesise
from penstock.bench.traces import Scaling
from penstock.core import ConfigError

DATA = Path(__file__).parents[3] / "shared" / "data" / "traces"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published traces are not here")
HEADING = "client,t_start_s,rate_rps,cv_interarrival,dist,param1,param2\n"


def rates(folder: Path, *lines: str) -> Path:
    path = folder / "rates.csv"
    path.write_text(HEADING + "".join(line + "\n" for line in lines))
    return path


def lengths(folder: Path, *rows: dict) -> Path:
    path = folder / "lengths.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROW = {"client": 3, "t_start_s": 0, "input_tokens": {"10": 0.5, "20": 0.5}, "output_tokens": {"5": 1.0}}


def test_rates_are_read_by_client_in_order(tmp_path: Path) -> None:
    found = read_rates(rates(tmp_path, "3,1200,0.5,1.1,Gamma,0.7,9", "3,0,2,1.1,Weibull,0.4,9", "1,600,1,1,Gamma,2,9"))
    assert found == {
        3: [RateWindow(0.0, 2.0, WeibullGaps(0.4)), RateWindow(1200.0, 0.5, GammaGaps(0.7))],
        1: [RateWindow(600.0, 1.0, GammaGaps(2.0))],
    }


@pytest.mark.parametrize(
    "line",
    [
        "",
        "x",
        "1,0,nan,1,Gamma,1,1",
        "1,0,inf,1,Gamma,1,1",
        "1,0,0,1,Gamma,1,1",
        "1,0,1,1,Normal,1,1",
        "1,0,1,1,Gamma,0,1",
        "1,0,1,1,Gamma,nan,1",
        "1,0,1,1,Weibull,0.001,1",
        "-1,0,1,1,Gamma,1,1",
        "1,-600,1,1,Gamma,1,1",
        "1,1e30,1,1,Gamma,1,1",
        "1,0,1,1,Gamma,1,1\n1,300,1,1,Gamma,1,1",
    ],
    ids=range(13),
)
def test_rates_that_are_broken_are_refused_in_a_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_rates(rates(tmp_path, line))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"client": -1},
        {"client": "3"},
        {"client": 1.5},
        {"t_start_s": -1},
        {"t_start_s": None},
        {"input_tokens": [1]},
        {"input_tokens": {"x": 1.0}},
        {"input_tokens": {"5": -0.1}},
        {"input_tokens": {"5": 2.0}},
        {"input_tokens": {"inf": 1.0}},
        {"output_tokens": {"1e12": 1.0}},
        {"output_tokens": {}},
    ],
    ids=str,
)
def test_lengths_that_are_broken_are_refused_in_a_line(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(ConfigError) as error:
        read_lengths(lengths(tmp_path, ROW | wrong))
    assert "\n" not in str(error.value)


def test_a_client_s_number_is_the_integral_of_its_rate_over_changing_windows() -> None:
    windows = [RateWindow(0.0, 0.02, GammaGaps(0.1)), RateWindow(1200.0, 0.5, GammaGaps(0.1))]
    counts = []
    for seed in range(1500):
        times = list(client_times(clipped(windows, 300.0, 1500.0), 1.0, np.random.default_rng(seed)))
        assert all(300.0 <= at < 600.0 or 1200.0 <= at < 1500.0 for at in times)
        assert times == sorted(times)
        counts.append(len(times))
    mean = 300 * 0.02 + 300 * 0.5
    assert abs(np.mean(counts) - mean) < 4 * np.std(counts) / 1500**0.5
    assert np.var(counts) > 4 * mean  # the clusters are there: Poisson would have `mean`


def test_lengths_are_the_client_s_own_and_change_with_its_time(tmp_path: Path) -> None:
    table = read_lengths(
        lengths(
            tmp_path,
            ROW,
            ROW | {"t_start_s": 600, "input_tokens": {"30": 1.0}},
            ROW | {"client": 4, "input_tokens": {"99": 1.0}},
            ROW | {"client": 5, "input_tokens": {}},
        )
    )
    assert sorted(table) == [3, 4]
    window = [RateWindow(0.0, 1.0, GammaGaps(1.0)), RateWindow(600.0, 1.0, GammaGaps(1.0))]
    rows = synthesise({3: window}, table, Scaling(), seed=1)
    assert {row.prompt_tokens for row in rows if row.arrival_s < 600} == {10, 20}
    assert {row.prompt_tokens for row in rows if row.arrival_s >= 600} == {30}
    assert {row.output_tokens for row in rows} == {5}
    strangers = synthesise({7: window}, table, Scaling(), seed=1)
    assert {row.prompt_tokens for row in strangers} == {99}  # 7 has those of the second client, always
    assert rows == synthesise({3: window}, table, Scaling(), seed=1)


def test_time_and_rate_are_scaled_apart(tmp_path: Path) -> None:
    table = read_lengths(lengths(tmp_path, ROW))
    window = {3: [RateWindow(0.0, 10.0, GammaGaps(1.0))]}
    assert len(synthesise(window, table, Scaling(rate_factor=0.1), 1)) == pytest.approx(600, abs=110)
    fast = synthesise(window, table, Scaling(time_factor=0.1), 1)
    assert len(fast) == pytest.approx(6000, abs=350)
    assert fast[-1].arrival_s < 60.0


def test_a_time_without_traffic_and_too_much_of_it_are_refused(tmp_path: Path) -> None:
    table = read_lengths(lengths(tmp_path, ROW))
    with pytest.raises(ConfigError, match="nobody sends"):
        synthesise({3: [RateWindow(0.0, 1.0, GammaGaps(1.0))]}, table, Scaling(begin_s=5000, duration_s=10), 1)
    with pytest.raises(ConfigError, match="about 600000000 requests"):
        synthesise({3: [RateWindow(0.0, 1e6, GammaGaps(1.0))]}, table, Scaling(), 1)


@needs_data
@pytest.mark.parametrize(("name", "clients", "tables"), [("m-small", 43, 4), ("deepseek-r1", 73, 12)])
def test_the_published_data(name: str, clients: int, tables: int) -> None:
    found = read_rates(DATA / f"servegen_{name}_rates.csv.gz")
    table = read_lengths(DATA / f"servegen_{name}_lengths.jsonl.gz")
    assert (len(found), len(table)) == (clients, tables)
    scaling = Scaling(begin_s=36_000, duration_s=1200, rate_factor=0.02)
    mean = sum(
        (end - begin) * part.rate_rps for one in found.values() for begin, end, part in clipped(one, 36e3, 372e2)
    )
    counts = [len(synthesise(found, table, scaling, seed)) for seed in range(8)]
    assert abs(np.mean(counts) - 0.02 * mean) < 5 * max(np.std(counts), 1.0) / 8**0.5
