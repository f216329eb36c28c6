import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench import stats
from penstock.core import ConfigError


def naive_interval(values, q, resamples=4000):
    """The plain bootstrap: whole resamples, their quantiles, the middle 95 % of them."""
    rng = np.random.default_rng(5)
    drawn = np.quantile(rng.choice(values, (resamples, len(values))), q, axis=1)
    return np.quantile(drawn, (0.025, 0.975))


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9, 0.99])
def test_a_quantile_and_its_interval_are_those_of_whole_resamples(q):
    values = np.random.default_rng(1).lognormal(0, 1, 300)
    found = stats.quantile(values, q)
    low, high = naive_interval(values, q)
    assert found.value == np.quantile(values, q) and found.count == 300
    scale = high - low
    assert abs(found.low - low) < 0.12 * scale and abs(found.high - high) < 0.12 * scale
    other = naive_interval(values, q - 0.08)  # control: another quantile's interval is told apart
    assert abs(found.low - other[0]) > 0.12 * scale or abs(found.high - other[1]) > 0.12 * scale


def test_the_interval_of_a_median_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    held = narrow = 0
    for _ in range(400):
        found = stats.median(rng.exponential(1.0, 40))
        held += found.low <= math.log(2) <= found.high
        half = (found.high - found.low) / 8
        narrow += found.value - half <= math.log(2) <= found.value + half  # control
    assert 0.91 <= held / 400 <= 0.99
    assert narrow / 400 < 0.6


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30))
def test_the_interval_holds_its_own_value_and_stays_within_the_sample(values):
    found = stats.median(values)
    assert min(values) <= found.low <= found.value <= found.high <= max(values)
    assert found == stats.median(values)


def test_what_has_no_value_or_an_infinite_one_is_refused():
    with pytest.raises(ConfigError, match="no value"):
        stats.median([])
    with pytest.raises(ConfigError, match="finite"):
        stats.median([1.0, float("nan")])
    with pytest.raises(ConfigError, match="2 rounds and B 1"):
        stats.compare_rounds([1, 2], [1])
    with pytest.raises(ConfigError, match="not positive"):
        stats.compare_rounds([0.0], [1.0])


def test_a_rate_turns_the_interval_round():
    assert stats.Estimate(2.0, 1.0, 4.0, 3).per(8.0) == stats.Estimate(4.0, 2.0, 8.0, 3)
    assert stats.Estimate(2.0, 1.0, 4.0, 3).times(10.0) == stats.Estimate(20.0, 10.0, 40.0, 3)


@pytest.mark.parametrize("count", [5, 9])
def test_the_flip_test_is_the_exact_permutation_test(count):
    differences = np.random.default_rng(3).normal(0.3, 1.0, count)
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=count)
    ]
    assert stats.sign_flip_p(differences) == sum(one >= sums[0] - 1e-9 for one in sums) / 2**count


def test_many_rounds_are_flipped_by_chance_and_agree_with_their_normal_limit():
    differences = np.random.default_rng(4).normal(0.25, 1.0, 60)
    z = abs(differences.sum()) / math.sqrt((differences**2).sum())
    normal = math.erfc(z / math.sqrt(2))
    assert 0.01 < normal < 0.6
    assert stats.sign_flip_p(differences) == pytest.approx(normal, abs=0.01)


def test_the_same_thing_twice_is_rarely_called_different_and_a_tenth_more_nearly_always():
    rng = np.random.default_rng(6)

    def called(factor, rounds):
        a = rng.lognormal(0, 0.03, (300, rounds))
        b = factor * rng.lognormal(0, 0.03, (300, rounds))
        return np.mean([stats.compare_rounds(x, y).real for x, y in zip(a, b, strict=True)])

    assert called(1.0, 6) <= stats.REAL_P + 0.02
    assert called(1.0, 5) <= stats.REAL_P + 0.03
    assert called(1.1, 6) > 0.8


def test_a_ratio_is_of_each_round_so_that_a_drift_common_to_both_does_not_count():
    drift = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    found = stats.compare_rounds(drift, [1.2 * one for one in drift])
    assert found.ratio.value == pytest.approx(1.2) and found.real and found.p == 2 / 64
    assert stats.compare_rounds([1.0, 1.0, 1.0], [1.2, 1.2, 1.2]).real is False  # three rounds can't show it


def test_an_outlier_is_shown_and_kept():
    rounds = [1.0, 1.1, 0.9, 1.0, 1.05, 9.0]
    assert stats.outliers(rounds) == (5,)
    assert stats.compare_rounds([1.0] * 6, rounds).outliers == (5,)
    assert len(stats.compare_rounds([1.0] * 6, rounds).rounds) == 6
    assert stats.outliers([1.0, 2.0, 100.0]) == ()


def test_blocks_are_drawn_within_their_stratum():
    values = np.asarray([0.0] * 10 + [100.0] * 10)
    seen = set()

    def statistic(index):
        seen.add((int((index < 10).sum()), len(index)))
        return float(values[index].mean())

    found = stats.bootstrap([10, 10], statistic, resamples=50)
    assert seen == {(10, 20)} and found.low == found.value == found.high == 50.0
    assert stats.bootstrap(20, lambda index: float(values[index].mean()), resamples=50).low < 50.0  # control


def test_blocks_that_rarely_give_an_answer_have_no_interval():
    calls = iter([1.0, *([float("nan"), 1.0] * 50)])
    assert math.isinf(stats.bootstrap(3, lambda index: next(calls), resamples=40).high)
