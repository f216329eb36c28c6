import pytest

from penstock.core import limits
from penstock.text.budget import BudgetSpent, RenderBudget


def test_steps_and_characters_run_out():
    budget = RenderBudget(steps=3, chars=10)
    budget.step(3)
    with pytest.raises(BudgetSpent, match="steps"):
        budget.step()
    budget = RenderBudget(steps=100, chars=10)
    assert budget.built("ééééé") == "ééééé"
    assert budget.built("12345678") == "12345678"  # a fourth of the bytes, a fourth of the price
    with pytest.raises(BudgetSpent, match="characters"):
        budget.built("éééé")


def test_one_string_may_not_be_huge():
    with pytest.raises(BudgetSpent, match="string"):
        RenderBudget(chars=10**12).chars(limits.MAX_RENDERED_CHARS + 1)


def test_measure_opens_containers():
    budget = RenderBudget()
    assert budget.measure("abc") == 3
    assert budget.measure(["abc", "de"]) == 9
    assert budget.measure({"a": ("b",)}) == 8
    assert budget.measure(None) == 16


def test_shared_containers_are_counted_each_time():
    value = ["x"]
    for _ in range(60):
        value = [value, value]  # 2**60 elements to look at, 61 lists to hold
    with pytest.raises(BudgetSpent):
        RenderBudget(steps=10_000).measure(value)
    with pytest.raises(BudgetSpent):
        RenderBudget(steps=10_000).written(value)


def test_numbers():
    budget = RenderBudget()
    assert budget.built(2**255) == 2**255
    with pytest.raises(BudgetSpent, match="number"):
        budget.built(2**256)
