import math
import random

import pytest

from penstock.sched import StepCost, StepFeatures, cost, policy

TARGET_S = 0.2

TRUE = (0.004, 3e-4, 1e-4, 4e-8)


def true_s(f):
    return TRUE[0] + TRUE[1] * f.prefill_tokens + TRUE[2] * f.decode_rows + TRUE[3] * f.kv_tokens


def traffic(i):
    return StepFeatures((i * 37 % 11) * 20, i * 13 % 9, (i * 7919 % 101) * 1000)


def test_the_fit_finds_the_machine_and_predicts_it():
    cost = StepCost()
    probe = StepFeatures(150, 5, 40_000)
    assert abs(cost.predict(probe) / true_s(probe) - 1) > 0.3, "the prior must not be the answer already"
    for i in range(300):
        cost.observe(traffic(i), true_s(traffic(i)))
    assert abs(cost.predict(probe) / true_s(probe) - 1) < 0.01


def test_it_follows_a_machine_that_slows_down_and_never_goes_negative():
    cost = StepCost()
    for i in range(900):
        slow = 1 if i < 300 else 3
        cost.observe(traffic(i), true_s(traffic(i)) * slow)
        assert min(cost.coefficients) >= 0
    assert abs(cost.predict(traffic(5)) / (3 * true_s(traffic(5))) - 1) < 0.05


def test_monotonous_traffic_and_broken_clocks_do_no_harm():
    cost = StepCost()
    for _ in range(5000):
        cost.observe(StepFeatures(0, 1, 100), 0.01)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        cost.observe(StepFeatures(1, 1, 1), bad)
    assert abs(cost.predict(StepFeatures(0, 1, 100)) - 0.01) < 1e-4
    assert all(0 <= c < 1 for c in cost.coefficients)


@pytest.mark.parametrize("token_s", [1e-6, 3e-5, 3e-2])
def test_years_of_uneven_steps_leave_it_sane(token_s):
    """Steps of one row, of thousands of tokens and of nothing in turn, with times that jump: no figure is ever lost."""
    chance, fit = random.Random(1), StepCost()
    for i in range(30_000):
        prefill = chance.choice((0, 0, 1, 90, 2048)) if i % 5000 < 4000 else 0
        rows = chance.choice((0, 1, 64, 256)) if i % 7000 < 5000 else 1
        features = StepFeatures(prefill, rows, prefill * 128 + rows * chance.choice((1, 2000, 100_000)))
        true = 2e-4 + token_s * prefill + token_s * rows + 1e-10 * features.kv_tokens
        fit.observe(features, true * math.exp(chance.gauss(0, 0.3)))
        assert all(math.isfinite(c) and c >= 0 for c in fit.coefficients)
    probe = StepFeatures(1000, 8, 20_000)
    assert 0.5 < fit.predict(probe) / (2e-4 + token_s * 1008 + 2e-6) < 2


def test_figures_past_counting_start_it_anew():
    fit = StepCost()
    fit.observe(StepFeatures(10**300, 1, 1), 1e-6)
    assert all(math.isfinite(c) for c in fit.coefficients)
    for _ in range(200):
        fit.observe(StepFeatures(0, 8, 4096), 0.02)
    assert abs(fit.predict(StepFeatures(0, 8, 4096)) - 0.02) < 0.001


def burst(token_s):
    """Seconds of the first steps of a server that was never asked before, under more prompts than one step holds."""
    fit, seconds = StepCost(), []
    for _ in range(8):
        constant, token, _, read = fit.coefficients
        count = max(1, policy.chunk_tokens(0, 2048, TARGET_S - constant, token, read))
        features = StepFeatures(count, 0, policy.kv_read(0, count))
        seconds.append(1e-3 + token_s * count + 2e-8 * features.kv_tokens)
        fit.observe(features, seconds[-1])
    return seconds


@pytest.mark.parametrize("token_s", [1e-5, 2e-3, 3e-2, 0.08])
def test_the_first_burst_is_cut_into_steps_of_the_time_that_was_wanted(token_s):
    first, *others = burst(token_s)
    assert first <= 2e-3 + 45 * token_s
    assert max(others) <= 1.5 * TARGET_S


def test_a_prior_that_hopes_for_the_best_makes_steps_of_a_minute(monkeypatch):
    """The control."""
    monkeypatch.setattr(cost, "PRIOR", (1e-3, 5e-5, 2e-4, 2e-8))
    assert max(burst(3e-2)) > 50


def test_it_says_whether_it_has_seen_a_step():
    cost = StepCost()
    assert not cost.observed
    cost.observe(StepFeatures(1, 0, 1), -1.0)
    assert not cost.observed
    cost.observe(StepFeatures(1, 0, 1), 0.01)
    assert cost.observed
