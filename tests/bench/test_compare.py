from dataclasses import replace

import pytest
from tests.bench.samples import queue_run, turns

from penstock.bench.compare import compare_runs, run_comparison
from penstock.bench.definitions import Objective
from penstock.core import ConfigError


def both(a=20.0, b=20.0, rounds=6, drift=0.0, rate=10.0, **options):
    """Both sides by turns, on the same arrivals; `drift` slows the machine by that share each run."""
    runs = []
    for index, (label, round) in enumerate(turns(rounds)):
        capacity = (a if label == "A" else b) * (1 - drift * index)
        runs.append(queue_run(rate, capacity, 20.0, seed=round, label=label, round=round, **options))
    return runs


def row(comparison, name):
    return next(one for one in comparison.rows if one.figure.name == name)


def test_a_faster_side_is_found_better_in_every_latency_and_a_ratio_says_by_how_much():
    found = compare_runs(both(a=20.0, b=25.0))
    assert (found.a, found.b, found.rounds, found.notes) == ("A", "B", 6, ())
    for name in ("TTFT p50", "TTFT p99", "E2E p50", "TPOT p50"):
        assert row(found, name).verdict == "better" and row(found, name).ratio.ratio.high < 1
    assert row(found, "TPOT p50").ratio.ratio.value == pytest.approx(20 / 25, rel=1e-6)
    turned = compare_runs([replace(run, label="BA"[run.label == "B"]) for run in both(a=20.0, b=25.0)])
    assert turned.a == "B" and row(turned, "E2E p50").verdict == "better"  # A is the side that ran first
    assert row(compare_runs(both(a=25.0, b=20.0)), "E2E p50").verdict == "worse"


def test_more_is_better_for_rates():
    found = compare_runs(both(a=20.0, b=25.0, rate=40.0), (Objective("ttft", 5.0),))
    requests = row(found, "requests")
    assert requests.verdict == "better" and requests.ratio.ratio.value == pytest.approx(1.25, rel=0.05)
    assert row(found, "goodput").verdict == "better"


def test_the_same_thing_twice_on_a_machine_that_slows_down_is_not_called_different():
    drifting = both(drift=0.01, rate=4.0)
    found = compare_runs(drifting)
    assert row(found, "TPOT p50").verdict == "no difference shown"
    ordered = sorted(drifting, key=lambda run: run.label)  # control: all of A first, then all of B
    capacities = [20.0 * (1 - 0.01 * index) for index in range(12)]
    naive = [
        queue_run(4.0, capacity, 20.0, seed=run.round, label=run.label, round=run.round)
        for run, capacity in zip(ordered, capacities, strict=True)
    ]
    assert row(compare_runs(naive), "TPOT p50").verdict == "worse"


def test_a_round_counts_for_both_sides_or_for_none():
    runs = both()
    runs[3] = replace(runs[3], invalid=("late",))
    found = compare_runs(runs)
    assert found.rounds == 5 and "not valid on both sides: round 2." in found.notes[0]
    few = compare_runs(both(rounds=3))
    assert "3 rounds can't show a difference" in few.notes[0]
    assert all(one.verdict == "no difference shown" for one in compare_runs(both(b=40.0, rounds=3)).rows)


def test_an_interrupted_comparison_is_of_its_whole_rounds():
    runs = both()[:5]
    with pytest.raises(ConfigError, match="has not one run of each"):  # the control
        compare_runs(runs)
    runs[-1] = replace(runs[-1], invalid=("interrupted",), interrupted=True)
    found = compare_runs(runs)
    assert found.rounds == 2 and "not valid on both sides: round 3." in found.notes[0]


def test_failures_count_as_infinitely_slow_and_are_named():
    runs = [
        queue_run(40.0, 20.0, 20.0, seed=round, label=label, round=round, refuse_after=0.05 if label == "B" else None)
        for label, round in turns(6)
    ]
    found = compare_runs(runs)
    assert any(note.startswith("B: ") and "did not end well" in note for note in found.notes)
    assert any("left out" in note and "TTFT p99" in note for note in found.notes)
    assert "TTFT p99" not in [one.figure.name for one in found.rows]


def test_what_is_not_two_sides_of_whole_rounds_is_refused():
    runs = both(rounds=2)
    with pytest.raises(ConfigError, match="1 endpoints"):
        compare_runs(runs[:1])
    with pytest.raises(ConfigError, match="one run of each"):
        compare_runs(runs[:3])
    with pytest.raises(ConfigError, match="one run of each"):
        compare_runs([*runs, runs[0]])
    with pytest.raises(ConfigError, match="no round is valid"):
        compare_runs([replace(run, invalid=("late",)) for run in runs])


def test_the_driver_interleaves_and_changes_who_goes_first():
    asked, said = [], []

    def run(label, round):
        asked.append((label, round))
        return queue_run(10.0, 20.0, 5.0, seed=round, label=label, round=round)

    runs = run_comparison(run, ("A", "B"), 3, said.append)
    assert asked == [("A", 0), ("B", 0), ("B", 1), ("A", 1), ("A", 2), ("B", 2)]
    assert len(runs) == len(said) == 6 and runs == tuple(sorted(runs, key=lambda one: one.round))
    with pytest.raises(ConfigError, match="one round of two"):
        run_comparison(run, ("A", "A"), 3)


def test_the_driver_runs_more_rounds_for_those_that_do_not_count_but_not_for_ever():
    def flaky(late):
        def run(label, round):
            done = queue_run(10.0, 20.0, 5.0, seed=round, label=label, round=round)
            return replace(done, invalid=("late",)) if late(label, round) else done

        return run_comparison(run, ("A", "B"), 5)

    runs = flaky(lambda label, round: label == "B" and round in (1, 3))
    assert len(runs) == 14 and compare_runs(runs).rounds == 5
    assert len(flaky(lambda label, round: True)) == 20
