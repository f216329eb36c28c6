"""Budgets and the learning rate's shape."""

import pytest

from penstock.core.errors import ConfigError
from penstock.train import Budget, Optimization, Progress
from penstock.train.loop import learning_rate


def test_the_rate_warms_up_holds_and_decays_to_nothing() -> None:
    optimization = Optimization(learning_rate=1.0, warmup_steps=10, decay_share=0.5)
    rates = [learning_rate(optimization, Budget(max_steps=100), Progress(step)) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[100] == 0.0
    assert rates[50:] == sorted(rates[50:], reverse=True)


def test_a_time_budget_is_spent_in_seconds() -> None:
    budget = Budget(minutes=2)
    assert budget.spent_share(Progress(10_000, 60.0)) == 0.5
    assert budget.spent_share(Progress(0, 500.0)) == 1.0


@pytest.mark.parametrize(("minutes", "steps"), [(0, 0), (1, 1)])
def test_a_run_has_one_budget(minutes: float, steps: int) -> None:
    with pytest.raises(ConfigError, match="one budget"):
        Budget(minutes=minutes, max_steps=steps)


def test_intervals_are_at_least_one_step() -> None:
    with pytest.raises(ConfigError, match="below 1"):
        Budget(max_steps=1, save_every=0)
