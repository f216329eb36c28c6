import math
from dataclasses import replace

from tests.bench import samples
from tests.bench.test_store import STEP

from penstock.bench import tables
from penstock.bench.compare import compare_runs
from penstock.bench.definitions import Objective, summarize
from penstock.bench.stats import Estimate
from penstock.bench.sweep import analyse

OBJECTIVES = (Objective("ttft", 0.2), Objective("tpot", 0.05))


def cells(table, first):
    return next(row for row in table.rows if row[0] == first)


def test_numbers_are_written_in_three_digits():
    assert [tables.number(one) for one in (None, math.nan, math.inf, 1234567.0, 99.95, 0.01234, 0.0)] == [
        "–", "–", "∞", "1,234,567", "100", "0.0123", "0",
    ]  # fmt: skip
    assert tables.spread(Estimate(0.02, 0.01, 0.03, 5), 1e3) == "20 (10 to 30)" and tables.spread(None) == "–"


def test_a_table_in_markdown_has_as_many_cells_in_every_line():
    text = tables.markdown(tables.Table("T", ("a|b", "c"), (("1\n2", "x"),), "note"))
    assert text.splitlines()[2:5] == ["| a\\|b | c |", "|---|---|", "| 1 2 | x |"] and text.endswith("note\n")


def test_every_row_has_a_cell_for_each_column():
    runs = [samples.queue_run(rate, 20.0, 10.0, refuse_after=1.0) for rate in (10, 40)]
    pairs = [samples.queue_run(10, 20, 10.0, seed=r, label=label, round=r) for label, r in samples.turns(5)]
    made = [
        tables.machine_table(samples.limits()),
        tables.steps_table([STEP], samples.limits()),
        tables.rates_table(runs[0], OBJECTIVES, 2.0),
        tables.latency_table(runs[1]),
        tables.outcomes_table(runs),
        tables.sweep_table(analyse(runs, OBJECTIVES).points),
        tables.comparison_table(compare_runs(pairs, OBJECTIVES)),
    ]
    for table in made:
        assert table.rows and {len(row) for row in table.rows} == {len(table.head)}, table.title


def test_figures_are_those_of_the_definitions():
    run = samples.queue_run(40, 20.0, 20.0, refuse_after=0.2)
    summary = summarize(run.seen, run.window, OBJECTIVES)
    rates = tables.rates_table(run, OBJECTIVES, 3.6)
    assert cells(rates, "requests that ended well")[1].startswith(tables.number(summary.requests_per_s) + " (")
    assert cells(rates, "output tokens")[1].startswith(tables.number(summary.output_tokens_per_s) + " (")
    assert cells(rates, "goodput")[1].startswith(tables.number(summary.goodput.requests_per_s) + " (")
    assert cells(rates, "objectives kept")[1].startswith(tables.number(100 * summary.goodput.attainment) + " (")
    assert cells(rates, "TTFT ≤ 200 ms")[1] == tables.number(100 * summary.goodput.by_metric["ttft"])
    cost = 3.6 / 3600 / summary.output_tokens_per_s * 1e6
    assert cells(rates, "a million output tokens")[1].startswith(tables.number(cost) + " (")
    ttft = cells(tables.latency_table(run), "TTFT")
    found = summary.latencies["ttft"]
    assert ttft[1] == str(found.count) and ttft[4] == tables.number(1e3 * found.percentiles[90.0])
    assert ttft[3].startswith(tables.number(1e3 * found.percentiles[50.0]) + " (")
    assert ttft[5].startswith(tables.number(1e3 * found.percentiles[99.0]) + " (")
    assert ttft[-1] == "∞"  # a fifth was refused: the 99th percentile of all is never
    served = tables.latency_table(samples.queue_run(5, 20.0, 20.0))
    assert cells(served, "TTFT")[-1] != "∞"  # control


def test_refusals_and_the_clients_lag_stand_beside_the_figures():
    run = samples.queue_run(40, 20.0, 20.0, refuse_after=0.2)
    table = tables.outcomes_table([run, replace(run, invalid=("sent late",), round=1, rate=None, users=7)])
    row = dict(zip(table.head, table.rows[0], strict=True))
    assert int(row["refused"]) > 100 and int(row["ok"]) + int(row["refused"]) == int(row["arrived"])
    assert row["Retry-After p50"] == "1 s" and row["send / loop lag p99"] == "0.2 / 0.2 ms" and row["valid"] == "yes"
    assert table.rows[1][0] == "A, 7 users, round 2" and table.rows[1][-1] == "no: sent late"


def test_a_step_says_its_share_and_of_what():
    row = tables.steps_table([STEP], samples.limits()).rows[0]
    assert row == (
        "m",
        "q8_0, bf16 KV",
        "decode",
        "8",
        "512",
        "–",
        "10 (9 to 12)",
        "800 (667 to 889)",
        "50% of bandwidth",
    )
