"""Lengths against the distributions they claim, and clipped ones that fail the same checks."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.bench.lengths import Empirical, Fixed, Independent, Lognormal, Observed, Uniform, parse_lengths
from penstock.core import ConfigError


def drawn(lengths, count: int = 20_000, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([lengths.draw(rng) for _ in range(count)])


def test_fixed_is_fixed() -> None:
    assert set(drawn(Fixed(7), 10)) == {7}


def test_uniform_has_both_ends_and_all_alike() -> None:
    found = Counter(drawn(Uniform(3, 6)).tolist())
    assert sorted(found) == [3, 4, 5, 6]
    assert all(abs(count - 5000) < 300 for count in found.values())


def test_lognormal_has_its_median_and_sigma() -> None:
    found = drawn(Lognormal(500.0, 0.8))
    assert np.median(found) == pytest.approx(500.0, rel=0.03)
    assert np.log(found).std() == pytest.approx(0.8, rel=0.03)


def test_bounds_are_drawn_within_and_nothing_piles_up_there() -> None:
    bounded = drawn(Lognormal(500.0, 0.8, 100, 1000))
    assert bounded.min() >= 100
    assert bounded.max() <= 1000
    at_top = (bounded >= 990).mean()
    clipped = np.clip(drawn(Lognormal(500.0, 0.8)), 100, 1000)
    assert (clipped >= 990).mean() > 5 * at_top  # the control: cutting heaps what is above


def test_lognormal_within_bounds_is_the_distribution_given_the_bounds() -> None:
    free = drawn(Lognormal(300.0, 1.0), 200_000)
    given_bounds = free[(free >= 50) & (free <= 700)]
    bounded = drawn(Lognormal(300.0, 1.0, 50, 700), 50_000, seed=2)
    for share in (10, 50, 90):
        assert np.percentile(bounded, share) == pytest.approx(np.percentile(given_bounds, share), rel=0.02)


def test_empirical_follows_its_weights_and_never_draws_what_has_none() -> None:
    found = Counter(drawn(Empirical({5: 0.1, 9: 0.0, 2: 0.3, 100: 0.6})).tolist())
    assert sorted(found) == [2, 5, 100]
    for length, share in ((2, 0.3), (5, 0.1), (100, 0.6)):
        assert found[length] / 20_000 == pytest.approx(share, abs=0.015)


def test_empirical_says_its_mean() -> None:
    facts = Empirical({10: 1.0, 20: 3.0}).facts()
    assert facts == {"kind": "empirical", "num_lengths": 2, "low": 10, "high": 20, "mean": pytest.approx(17.5)}


def test_observed_pairs_stay_together_and_independent_ones_do_not() -> None:
    pairs = [(length, length * 2) for length in range(1, 50)]
    rng = np.random.default_rng(0)
    observed = [Observed(pairs).draw(rng) for _ in range(300)]
    assert all(output == 2 * prompt for prompt, output in observed)
    apart = Independent(Uniform(1, 49), Uniform(2, 98))
    assert any(output != 2 * prompt for prompt, output in (apart.draw(rng) for _ in range(300)))


@given(st.floats(1.0, 1e6), st.floats(0.0, 10.0), st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_every_lognormal_length_is_within_its_bounds(median, sigma, low, width, seed) -> None:
    median = min(max(median, low), low + width)
    found = Lognormal(median, sigma, low, low + width).draw(np.random.default_rng(seed))
    assert low <= found <= low + width


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("512", Fixed(512)),
        ("64-256", Uniform(64, 256)),
        ("lognormal:200,0.8", Lognormal(200.0, 0.8)),
        ("lognormal:200,0.8,1-4096", Lognormal(200.0, 0.8, 1, 4096)),
    ],
)
def test_the_command_line_says_it_in_a_few_characters(text, lengths) -> None:
    assert parse_lengths(text) == lengths
    assert parse_lengths(text).facts()["kind"] == lengths.kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-5",
        "1.5",
        "5-3",
        "1-2-3",
        "lognormal:",
        "lognormal:5",
        "lognormal:5,nan",
        "lognormal:nan,1",
        "lognormal:5,-1",
        "lognormal:5,1,9-20",
        "lognormal:5,1,1-9,3",
        "99999999999",
        "1e3",
        "many",
        "9" * 5000,
    ],
)
def test_what_is_no_length_is_refused_in_a_line(text) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_lengths(text)
    assert refused.value.hint
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("weights", [{}, {3: 0.0}, {0: 1.0}, {5: -1.0}, {5: math.nan}, {5: math.inf}, {2**40: 1.0}])
def test_weights_that_are_none_are_refused(weights) -> None:
    with pytest.raises(ConfigError):
        Empirical(weights)


def test_pairs_out_of_bounds_are_refused() -> None:
    for pairs in ([], [(0, 5)], [(5, 0)]):
        with pytest.raises(ConfigError):
            Observed(pairs)
