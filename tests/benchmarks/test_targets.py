"""Targets: shares and ratios by hand, a miss says why, and what was not measured is never a success."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from benchmarks.records import ROOT, write_record
from benchmarks.targets import (
    KV_BYTES,
    busy_lines,
    kernel_lines,
    lines_of,
    load_lines,
    loop_lines,
    peer_lines,
    served_lines,
    table,
    text_of,
    verdict,
    weights,
)

from penstock.bench import Estimate, MachineLimits, Record, read_origin
from penstock.bench.machine import DOT, FMA, READ, Limit


def estimate(value: float) -> dict[str, Any]:
    return asdict(Estimate(value, value, value, 3))


def record_of(figures: Any, int8_peak: float = 1000.0) -> Record:
    limits = tuple(Limit(what, 2, 0, Estimate(int8_peak, 1, 2000, 3)) for what in (READ, DOT, FMA))
    machine = MachineLimits("avx512", 2, 1, False, limits)
    return Record("figures", "x", read_origin(machine), {}, figures=figures)


def unit(peer: str, rate: float, work: str = "decode-1", format: str = "q8_0", limit: float = 50.0) -> dict[str, Any]:
    what = "prefill" if work.startswith("prefill") else "decode"
    rounds = {"": {"tokens": [100, 100, 100], "seconds": [100 / rate] * 3}}
    return {
        "peer": peer, "format": format, "bits": "8 bit", "work": work, "title": work, "what": what, "rounds": rounds,
        "variant": "", "rate": estimate(rate), "limit_rate": limit, "bound": "bandwidth",
    }  # fmt: skip


def line_of(lines: Any, start: str) -> Any:
    return next(line for line in lines if line.what.startswith(start))


def test_a_share_and_a_ratio_are_both_needed() -> None:
    good = record_of({"units": [unit("penstock", 45.0), unit("a", 30.0), unit("b", 20.0)]})
    line = line_of(peer_lines(good), "decode-1, q8_0")
    assert [part.said for part in line.parts] == ["90% of bandwidth", "1.50 × a q8_0"]
    assert verdict(line.parts) == "yes"
    bad = record_of({"units": [unit("penstock", 45.0), unit("a", 40.0)]})
    line = line_of(peer_lines(bad), "decode-1, q8_0")
    assert line.parts[1].said == "1.12 × a q8_0 (the limit itself is 1.2 ×)"
    assert [part.met for part in line.parts] == [True, False]
    assert verdict(line.parts) == "**no**"


def test_the_int8_peak_counts_the_head_only_where_every_token_has_logits() -> None:
    assert weights(head=True) - weights(head=False) == 151_936 * 1024
    assert weights(head=False) == pytest.approx(0.440e9, rel=1e-2)
    works = ("prefill-512", "prefill-2048", "decode-32")
    lines = list(peer_lines(record_of({"units": [unit("penstock", 400.0, work) for work in works]}, 1e3)))
    assert line_of(lines, "prefill-512, q8_0").parts[0].said == "35% of the int8 peak"
    assert not line_of(lines, "prefill-512, q8_0").parts[0].met
    assert line_of(lines, "decode-32, q8_0").parts[0].said == "48% of the int8 peak"
    assert line_of(lines, "prefill, 2,048").parts[0].said == "q8_0 100%"


def test_what_was_not_measured_is_not_met() -> None:
    lines = list(peer_lines(record_of({"units": []})))
    assert {verdict(line.parts) for line in lines} == {"not measured"}
    assert all(line.why for line in lines)
    alone = line_of(peer_lines(record_of({"units": [unit("penstock", 45.0)]})), "decode-1, q8_0")
    assert [part.met for part in alone.parts] == [True, False]
    assert alone.parts[1].said == "no peer was measured"


def served(server: str, work: str, rate: float, ttft: float) -> dict[str, Any]:
    return {"server": server, "work": work, "title": work, "rounds": [rate] * 3, "rate": estimate(rate)} | {
        "ttft_s_p50": estimate(ttft)
    }


def test_served_loads_are_beside_llama_server() -> None:
    rows = [served("penstock serve", "served-8", 123.0, 1.5), served("llama-server", "served-8", 30.0, 9.0)]
    lines = list(served_lines(record_of({"served": [*rows, served("penstock serve", "served-16", 110.0, 3.0)]})))
    assert [part.said for part in lines[0].parts] == ["4.1 ×", "TTFT p50 0.17 of theirs"]
    assert [verdict(line.parts) for line in lines] == ["yes", "not measured", "**no**"]


def test_the_busy_core_products_sampling_and_the_loop() -> None:
    ratios = {name: {"ratio": estimate(ratio)} for name, ratio in (("mean", 1.7), ("p50", 2.3))}
    row = {"server": "penstock serve q4_0"} | ratios
    (line,) = busy_lines(record_of({"servers": [row, {"server": "llama-server q4_0"}]}))
    assert [part.met for part in line.parts] == [True, False]
    products = [{"kind": kind, "rows": 512, "share_of_peak": 0.5} for kind in ("Q4_0", "INT8")]
    times = {"head": 0.03, "greedy": 0.001, "head, greedy": 0.0325, "unfiltered": 0.002, "head, unfiltered": 0.034}
    sampling = [{"kind": kind, "rows": 64, "seconds": estimate(value)} for kind, value in times.items()]
    lines = list(kernel_lines(record_of({"products": products, "sampling": sampling})))
    assert [verdict(line.parts) for line in lines] == ["yes", "**no**", "**no**", "yes"]
    assert lines[2].parts[0].said == "greedy: 1.00 ms alone, 2.50 ms behind the vocabulary pass"
    assert lines[2].parts[1].said == "top-k 64 was not measured"
    rows = [{"figure": "alone", "rows": count, "total": {"median_us": 310.0}} for count in (64, 256)]
    assert [verdict(line.parts) for line in loop_lines(record_of({"rows": rows}))] == ["**no**", "yes"]


def test_the_worst_file_of_a_size_counts() -> None:
    packed = {"packed_bytes": 10 * KV_BYTES}
    load = {"load_s": 0.5, "bytes_per_s": 2e9, "peak_bytes": 14 * KV_BYTES}
    slow = {"load_s": 1.5, "bytes_per_s": 0.5e9, "peak_bytes": 20 * KV_BYTES, "resident_bytes": 11 * KV_BYTES}
    figures = {f"3B q8_0 {cache}": load | packed for cache in ("cold", "warm", "none")}
    figures |= {f"3B q4_0 {cache}": slow | packed for cache in ("cold", "warm", "none")}
    said = [line.parts[0].said for line in load_lines(record_of(figures))]
    assert said == ["3B q8_0 1.27 ×", "3B q4_0 0.50 GB/s", "3B q4_0 1.50 s"]


def test_a_record_that_is_not_there_is_said(tmp_path: Path) -> None:
    rows = [{"figure": "alone", "rows": 64, "total": {"median_us": 200.0}}]
    write_record(tmp_path / "engine_loop.json", "engine_loop", rows)
    found = [line.what for line, _ in lines_of(tmp_path)]
    assert "of peers.json" in found
    assert "of engine_loop.json" not in found
    text = text_of(tmp_path)
    assert "**1 of 7 met**" in text
    assert "| control loop, 64 sequences | ≤ 300 µs | 200 µs | yes | – |" in text
    assert "| of busy.json |  | – | not measured | note 1 | – |" in text
    assert text.endswith("\n1. That record is not there.\n2. Not known.\n")


def test_the_page_has_a_place_and_the_records_at_hand_make_the_table() -> None:
    assert "<!-- table: targets -->" in (ROOT / "docs/speed.md").read_text()
    found, notes = table(ROOT / "benchmarks/records")
    named = [row[4] for row in found.rows if row[3] != "yes"]
    assert set(named) == {f"note {number}" for number in range(1, len(notes) + 1)}
    assert all(notes)
    assert {len(row) for row in found.rows} == {len(found.head)}
