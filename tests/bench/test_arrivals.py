"""Arrivals against the mathematics of their processes, and a rescaled process that fails the same checks."""

import math
from itertools import islice, pairwise, takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.bench.arrivals import (
    Bursts,
    ClosedLoop,
    Constant,
    Gamma,
    GammaGaps,
    Poisson,
    Ramp,
    WeibullGaps,
    arrival_facts,
    parse_arrivals,
    renewals,
)
from penstock.core import ConfigError


def counts(process, span_s: float, runs: int, seed: int = 1) -> np.ndarray:
    """How many arrive within a span, in each of many runs."""
    return np.array(
        [
            sum(1 for _ in takewhile(lambda at: at < span_s, process.times(np.random.default_rng([seed, run]))))
            for run in range(runs)
        ]
    )


def rescaled(process, number: int, seed: int) -> list[float]:
    """What a careless generator does: that many arrivals, stretched to last exactly as long as their mean."""
    times = np.array(list(islice(process.times(np.random.default_rng(seed)), number)))
    return (times / times[-1] * (number / process.rate_rps)).tolist()


@pytest.mark.parametrize("burstiness", [0.05, 0.3, 1.0, 4.0])
def test_the_mean_number_is_the_rate_times_the_span_however_bursty(burstiness: float) -> None:
    found = counts(Gamma(10.0, burstiness), 5.0, 3000)
    spread = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - 50.0) < 4.0 * spread


def test_without_a_steady_beginning_the_mean_would_be_wrong() -> None:
    """The control: first gaps drawn like any other count (cv² − 1) / 2 more arrivals."""
    rng = np.random.default_rng(1)
    gaps = GammaGaps(0.05)
    found = [int((np.cumsum(gaps.draw(rng, 2000) / 10.0) < 5.0).sum()) for _ in range(3000)]
    assert np.mean(found) == pytest.approx(50.0 + (1 / 0.05 - 1) / 2, abs=2.5)


@pytest.mark.parametrize("gaps", [GammaGaps(0.2), GammaGaps(3.0), WeibullGaps(0.5), WeibullGaps(2.0)])
def test_gaps_have_mean_one_and_what_is_left_of_one_has_its_theory(gaps) -> None:
    """The mean of what is left is E[gap²] / 2 E[gap]."""
    rng = np.random.default_rng(5)
    drawn = gaps.draw(rng, 400_000)
    assert drawn.mean() == pytest.approx(1.0, rel=0.02)
    left = np.array([gaps.first(rng) for _ in range(60_000)])
    assert left.mean() == pytest.approx((drawn**2).mean() / 2.0, rel=0.05)


def test_poisson_numbers_vary_as_they_should_and_rescaled_ones_do_not() -> None:
    found = counts(Poisson(8.0), 10.0, 3000)
    assert found.var() == pytest.approx(80.0, rel=0.12)
    halves = [sum(1 for at in rescaled(Poisson(8.0), 80, seed) if at < 5.0) for seed in range(500)]
    assert np.var(halves) < 0.7 * 40.0  # the control: too even
    whole = {round(rescaled(Poisson(8.0), 80, seed)[-1], 9) for seed in range(20)}
    assert whole == {10.0}  # exact totals, which ours must not have
    lasts = {round(next(islice(Poisson(8.0).times(np.random.default_rng(seed)), 79, None)), 3) for seed in range(20)}
    assert len(lasts) == 20


def test_gamma_gaps_have_the_variation_of_their_burstiness() -> None:
    times = np.array(list(islice(Gamma(4.0, 0.25).times(np.random.default_rng(3)), 200_000)))
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(0.25, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.03)


def test_constant_is_exact_and_keeps_no_error() -> None:
    times = list(islice(Constant(3.0).times(np.random.default_rng(0)), 300_001))
    assert times[0] == 0.0
    assert times[-1] == 100_000.0


def test_bursts_come_in_their_part_of_each_period() -> None:
    process = Bursts(base_rps=1.0, burst_rps=50.0, every_s=10.0, burst_s=2.0)
    times = np.array(list(takewhile(lambda at: at < 5000.0, process.times(np.random.default_rng(4)))))
    inside = times % 10.0 < 2.0
    assert inside.sum() / 500 == pytest.approx(100.0, rel=0.03)
    assert (~inside).sum() / 500 == pytest.approx(8.0, rel=0.08)
    quiet = Bursts(base_rps=0.0, burst_rps=50.0, every_s=10.0, burst_s=2.0)
    assert all(at % 10.0 < 2.0 for at in islice(quiet.times(np.random.default_rng(4)), 5000))


@pytest.mark.parametrize(("begin", "end"), [(0.0, 20.0), (20.0, 1.0), (5.0, 5.0)])
def test_a_ramp_has_the_integral_of_its_rate(begin: float, end: float) -> None:
    process = Ramp(begin, end, 10.0)
    for until in (4.0, 10.0, 15.0):
        inside = min(until, 10.0)
        mean = begin * inside + (end - begin) / 10.0 * inside**2 / 2 + end * max(0.0, until - 10.0)
        found = counts(process, until, 1500)
        assert abs(found.mean() - mean) < 4.5 * found.std() / math.sqrt(1500)


@given(
    st.sampled_from(
        [
            Poisson(3.0),
            Gamma(3.0, 0.02),
            Gamma(3.0, 50.0),
            Constant(2.0),
            Bursts(0.0, 9.0, 5.0, 1.0),
            Ramp(9.0, 0.5, 3.0),
        ]
    ),
    st.integers(0, 2**63 - 1),
)
@settings(max_examples=60, deadline=None)
def test_times_never_fall_and_come_again_with_their_seed(process, seed: int) -> None:
    times = list(islice(process.times(np.random.default_rng(seed)), 600))
    assert times == list(islice(process.times(np.random.default_rng(seed)), 600))
    assert times[0] >= 0.0
    assert all(later >= earlier for earlier, later in pairwise(times))
    assert all(math.isfinite(at) for at in times)


def test_other_seeds_give_other_times() -> None:
    first, second = (next(Poisson(1.0).times(np.random.default_rng(seed))) for seed in (1, 2))
    assert first != second


def test_a_closed_loop_has_no_times() -> None:
    assert list(islice(ClosedLoop(3).times(np.random.default_rng(0)), 3)) == [None, None, None]


def test_renewals_do_not_stop_at_a_chunk() -> None:
    times = np.array(list(islice(renewals(GammaGaps(1.0), np.random.default_rng(9)), 50_000)))
    assert times[-1] == pytest.approx(50_000, rel=0.03)
    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize(
    ("text", "process"),
    [
        ("poisson:4", Poisson(4.0)),
        ("gamma:4,0.5", Gamma(4.0, 0.5)),
        ("constant:0.1", Constant(0.1)),
        ("bursts:1,20,30,5", Bursts(1.0, 20.0, 30.0, 5.0)),
        ("ramp:1,20,60", Ramp(1.0, 20.0, 60.0)),
        ("closed:16", ClosedLoop(16)),
    ],
)
def test_the_command_line_says_it_in_a_few_characters(text: str, process) -> None:
    assert parse_arrivals(text) == process
    facts = arrival_facts(process)
    assert facts["kind"] == text.split(":")[0]
    assert len(facts) == 1 + text.count(",") + 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "poisson",
        "poisson:",
        "poisson:0",
        "poisson:-1",
        "poisson:nan",
        "poisson:inf",
        "poisson:1,2",
        "gamma:4",
        "gamma:4,0",
        "normal:3",
        "closed:0",
        "closed:1.5",
        "closed:nan",
        "closed:1e9",
        "bursts:1,2,3,4",
        "ramp:1,0,5",
    ],
)
def test_what_can_not_be_driven_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_arrivals(text)
    assert refused.value.hint
    assert "\n" not in str(refused.value)
