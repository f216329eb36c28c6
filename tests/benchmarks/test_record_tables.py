"""Tables of records: figures by hand, what an older record lacks is a dash, and the pages have a place for each."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from benchmarks.record_tables import (
    TABLES,
    client_rates,
    expect_tables,
    kernels,
    loading,
    sampling,
    show,
    startup,
    storm,
)
from benchmarks.records import ROOT, write_record

from penstock.bench import Estimate, Record, read_origin, read_record


def record_of(figures: dict[str, Any], title: str = "x") -> Record:
    return Record("figures", title, read_origin(), {}, figures=figures)


def estimate(value: float) -> dict[str, Any]:
    return asdict(Estimate(value, value / 2, value * 2, 15))


def product(rows: int, bandwidth: float, peak: float) -> dict[str, Any]:
    shares = {"share_of_bandwidth": bandwidth, "share_of_peak": peak}
    return {"kind": "Q4_0", "rows": rows, "gb_s": estimate(20.0)} | shares


def test_few_rows_are_shares_of_the_bandwidth_and_many_of_the_peak() -> None:
    found = kernels(record_of({"products": [product(1, 0.81, 0.02), product(512, 0.01, 0.47)]}))
    assert found.rows == (("Q4_0", "20 (10 to 40)", "81%", "–", "–", "–", "–", "–", "–", "–", "47%"),)
    assert len(found.head) == len(found.rows[0])


def test_sampling_is_what_a_step_pays_beyond_its_pass() -> None:
    times = {"head": 0.03, "head, outlined": 0.031, "greedy": 0.001, "head, greedy": 0.0325, "min-p": 0.002}
    rows = [{"kind": kind, "rows": 64, "seconds": estimate(seconds)} for kind, seconds in times.items()]
    found = sampling(record_of({"sampling": rows}))
    assert [row[0] for row in found.rows] == ["greedy", "min-p"]
    assert found.rows[0][3] == "2.5"
    assert found.rows[1][2:] == ("–", "–")


def rate(processes: int, rate: float, invalid: tuple[str, ...] = (), ok: float = 1.0) -> dict[str, Any]:
    health = {name: {"p99_s": 0.002} for name in ("send_lag", "loop_lag")}
    figures = {"tokens_per_s": 16 * rate, "client_ms_per_1000_tokens": 30.0}
    return {"processes": processes, "rate": rate, "ok": ok, "invalid": list(invalid), "health": health} | figures


def test_the_largest_rate_is_one_that_was_kept_and_the_next_says_why_not() -> None:
    late = ("requests were sent late: p99 25 ms. hint: fewer",)
    rates = [rate(1, 50.0), rate(1, 62.5, late), rate(1, 62.5), rate(1, 78.1, late), rate(1, 78.1, (), 0.99)]
    found = client_rates(record_of({"rates": [*rates, rate(2, 50.0, late)]}))
    assert found.rows[0] == ("1", "62", "1,000", "2.0", "2.0", "30", "78: 99.00% of its requests ended well")
    assert found.rows[1] == ("2", *["–"] * 5, "50: requests were sent late: p99 25 ms")
    assert client_rates(record_of({"rates": rates[:1]})).rows[0][-1] == "none was refused"


def test_loading_tells_the_weights_apart_where_the_record_does() -> None:
    sizes = {"anonymous_bytes": 1e6, "mapped_bytes": 2e6, "peak_bytes": 3e6, "file_bytes": 4e9, "bytes_per_s": 2e9}
    old, new = [{"load_s": 2.0}], [{"load_s": 2.0, "pack_s": 1.0}, {"load_s": 3.0, "pack_s": 1.5}]
    figures = {"3B q8_0 cold": sizes | {"runs": new}, "3B q8_0 warm": sizes | {"runs": new}}
    rows = loading(record_of(figures | {"3B q8_0 none": sizes | {"runs": old}})).rows
    assert rows[0] == ("3B q8_0", "4,000", "cold", "2.50 (2.00 to 3.00)", "2.00", "1.25", "3.20", "1", "2", "3")
    assert rows[1][5:7] == ("1.25", "–")  # mapping repacks nothing
    assert rows[2][5:7] == ("–", "–")


def test_start_up_and_storms_show_the_spread() -> None:
    times = {"first_start_s": 2.0, "ready_s": [0.5, 0.9, 0.6], "first_token_s": [1.0, 2.0]}
    assert startup(record_of({"m": times})).rows == (("m", "2.00", "0.60 (0.50 to 0.90)", "1.50 (1.00 to 2.00)"),)
    gaps = [{"p50": 10.0, "p99": 20.0}]
    figures = {"calm_itl_ms": gaps, "storm_itl_ms": gaps, "p99_ratios": [1.04], "health_live_ms": {"p50": 1, "max": 9}}
    assert "1.04 (1.04 to 1.04)" in storm(record_of(figures)).note


@pytest.mark.parametrize("shown", TABLES, ids=lambda shown: shown.name)
def test_the_page_has_a_place_for_every_table_and_the_record_at_hand_makes_it(shown: Any) -> None:
    assert f"<!-- table: {shown.name} -->" in (ROOT / shown.page).read_text()
    path = ROOT / "benchmarks/records" / f"{shown.title}.json"
    if not path.exists():
        pytest.skip(f"{path.name} was not recorded")
    record = read_record(path)
    assert record.title == shown.title
    found = shown.make(record)
    assert found.rows
    assert {len(row) for row in found.rows} == {len(found.head)}


def test_a_record_fills_all_its_tables_and_a_page_without_one_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table: startup -->\n<!-- end -->\n")
    times = {"first_start_s": 2.0, "ready_s": [0.5], "first_token_s": [1.0]}
    record = write_record(tmp_path / "r.json", "startup", {"bundled": times}, rounds=1)
    show(record, page)
    assert "| bundled | 2.00 |" in page.read_text()
    assert read_record(tmp_path / "r.json").configuration == {"rounds": 1}
    show(record, None)
    with pytest.raises(SystemExit, match="0 tables named 'kernels'"):
        expect_tables(page, "kernels")
