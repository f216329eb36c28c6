"""Tables and figures of made-up rounds: medians, shares, failures; and the record reads back."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.peers import page, plots, results, served_results
from benchmarks.peers.results import agreement, failures_table, figures_of, notes_table, summary_table, work_table
from benchmarks.peers.rounds import Unit
from benchmarks.peers.served import SERVED_WORKS
from benchmarks.peers.works import CONTENDERS, Contender, Work, decode

from penstock.bench import (
    Counted,
    Health,
    Lag,
    LoadRun,
    MachineLimits,
    Outcome,
    Record,
    Seen,
    Window,
    markdown,
    read_origin,
    read_record,
    write_record,
)
from penstock.bench.machine import Limit
from penstock.bench.stats import Estimate

WORK = decode(8, 128, 16)


class Hundred:
    """A limit of a hundred tokens a second, of all formats but one."""

    def rate(self, format: str, work: Work) -> tuple[float, str] | None:
        return None if format == "f32" else (100.0, "bandwidth")


def unit(name: str, rates: list[float], work: Work = WORK, variant: str = "", error: str | None = None) -> Unit:
    contender = next(each for each in CONTENDERS if each.name == name)
    made = Unit(contender, work, error=error)
    for rate in rates:
        made.add(variant, 100, 100 / rate)
    return made


def rows(*units: Unit) -> list[results.Figures]:
    return [figures_of(each, Hundred()) for each in units]


def test_a_rate_is_the_median_of_rounds_and_outliers_stay_shown() -> None:
    (row,) = rows(unit("penstock q4_0", [50.0, 51.0, 49.0, 50.0, 20.0]))
    assert row["rate"]["value"] == pytest.approx(50.0) and row["rate"]["count"] == 5
    assert row["outliers"] == [pytest.approx(20.0)]
    text = markdown(work_table([row]))
    assert "50% of bandwidth" in text and "outliers 20" in text


def test_the_summary_takes_the_fastest_of_each_side_and_ratios_of_the_same_rounds() -> None:
    found = rows(
        unit("penstock q4_0", [40.0, 80.0]),
        unit("penstock q4_k_m", [10.0, 10.0]),
        unit("llama.cpp q4_0", [20.0, 40.0], variant="flash"),
        unit("onnxruntime-genai int4", [5.0, 5.0]),
        unit("transformers f32", [5.0, 5.0]),
    )
    table = summary_table(found)
    ((work, bits, ours, _, theirs, ratio),) = table.rows  # nobody of ours has 32 bits
    assert (work, bits) == (WORK.title, "4 bit")
    assert ours.startswith("q4_0: 60") and theirs.startswith("llama.cpp q4_0 (flash): 30")
    assert ratio == "2 (2 to 2) in 2"


def test_failures_stand_with_their_reason() -> None:
    found = rows(unit("vLLM bf16", [], error="took longer than 1 s."), unit("penstock bf16", [1.0]))
    assert failures_table(found, {"openvino-genai": "ERROR: no wheel"}).rows == (
        ("openvino-genai", "ERROR: no wheel"),
        ("vLLM bf16, decode-8", "took longer than 1 s."),
    )
    assert "took longer" in markdown(work_table(found))


def test_without_a_limit_there_is_no_share() -> None:
    (row,) = rows(unit("transformers f32", [5.0]))
    assert results.share(row) == results.NONE


@pytest.mark.parametrize(("others", "same"), [([1, 2, 3], 3), ([1, 2, 9], 2), ([9, 2, 3], 0)])
def test_agreement_ends_at_the_first_difference(others: list[int], same: int) -> None:
    assert agreement([1, 2, 3], others) == same


def test_contenders_say_how_far_they_agree_with_ours() -> None:
    contenders: list[Contender] = [each for each in CONTENDERS if each.format == "bf16"]
    loaded = {"penstock bf16": {"note": "n", "seconds": 1.0, "first_tokens": [1, 2]}}
    loaded["llama.cpp bf16"] = {"note": "m", "seconds": 1.0, "first_tokens": [1, 3]}
    assert [row[3] for row in notes_table(contenders, loaded).rows] == ["2 of 2", "1 of 2"]


def seen(id: int, first_s: float, tokens: int | None, counted: Counted = Counted.USAGE) -> Seen:
    made = Seen(id=id, intended_s=0.0)
    made.sent_s, made.chunks_s, made.finish_s, made.end_s = 0.0, [first_s, first_s + 0.1], first_s + 0.1, first_s + 0.1
    made.outcome, made.output_tokens, made.counted, made.finish_reason = Outcome.OK, tokens, counted, "length"
    return made


def load_run(*answers: Seen) -> LoadRun:
    lag = Lag(1, 0.0, 0.0, 0.0)
    health = Health(lag, lag, 0.1)
    return LoadRun("x", Window(0.0, 1.0), health, (), (), answers, 1.0)


def test_served_tokens_are_the_servers_or_those_asked_for_never_chunks() -> None:
    work = SERVED_WORKS[0]
    run = load_run(seen(0, 0.4, 64), seen(1, 0.9, 7, Counted.TOKENIZER))
    assert served_results.rate_of(run, work) == pytest.approx((64 + 64) / 1.0)
    found = served_results.figures_of("llama_cpp.server", work, [run])
    assert found["ttft_s_p50"]["value"] == pytest.approx(0.65)
    assert found["gap_s_p50"]["value"] == pytest.approx(0.1)
    assert "one request at a time" in markdown(served_results.table([found]))


def machine() -> MachineLimits:
    one = Estimate(1.0, 1.0, 1.0, 1)
    return MachineLimits("scalar", 1, 1, True, tuple(Limit(what, 1, 1, one) for what in ("read", "dot", "fma")))


def test_the_page_and_the_plots_are_whole_and_the_record_reads_back(tmp_path: Path) -> None:
    alone, deep = decode(1, 128, 16), decode(1, 2048, 16)
    works = (alone, WORK, deep)
    found = rows(
        *(unit(name, [20.0, 30.0], work) for name in ("penstock q8_0", "OpenVINO batching int8") for work in works)
    )
    drawn = plots.write(found, tmp_path)
    assert [plot.name for plot in drawn] == ["peers-streams.svg", "peers-depth.svg", "peers-limits.svg"]
    assert all("<svg" in plot.read_text() and "OpenVINO batching int8" in plot.read_text() for plot in drawn)
    origin = read_origin(machine())
    text = page.page(origin, True, [summary_table(found), page.limits_table(machine(), machine())], drawn)
    assert "mean nothing" in text and "peers-depth.svg" in text and "before the run" in text
    assert "mean nothing" not in page.page(origin, False, [], [])
    write_record(tmp_path / "peers.json", Record("figures", "peers", origin, figures={"units": found}))
    assert read_record(tmp_path / "peers.json").figures["units"] == found


def test_nothing_measured_draws_nothing(tmp_path: Path) -> None:
    assert plots.write(rows(unit("vLLM bf16", [], error="no")), tmp_path) == []
