import pytest
from jinja2.exceptions import SecurityError

from penstock.text.budget import BudgetSpent, RenderBudget
from penstock.text.metered import BUDGET, drained, pay_search
from penstock.text.sandbox import MeteredSandbox


def render(source, budget=None, **values):
    return MeteredSandbox().from_string(source).render({**values, BUDGET: budget or RenderBudget()})


@pytest.mark.parametrize(("container", "steps"), [("a" * 10_240, 11), (["a"] * 640, 11), ({"a": 1}, 1), (5, 1)])
def test_a_search_costs_by_the_size_of_what_is_searched(container, steps):
    pay_search(RenderBudget(steps=steps), container, "x")
    with pytest.raises(BudgetSpent):
        pay_search(RenderBudget(steps=steps - 1), container, "x")


def test_an_iterator_is_paid_for_as_it_is_emptied():
    taken = []
    with pytest.raises(BudgetSpent):
        drained(RenderBudget(steps=3), (taken.append(each) or each for each in range(99)))
    assert len(taken) == 4


@pytest.mark.parametrize(
    "source",
    [
        "{{ xs|tojson(separators=('aaaaaaaaa', ':')) }}",
        "{{ xs|tojson(indent=17) }}",
        "{{ 1.5|round(65) }}",
        "{{ '%d' is odd }}",
        "{{ ['%d']|select('divisibleby', 3)|list }}",
    ],
)
def test_what_could_be_of_any_size_is_refused(source):
    with pytest.raises(SecurityError):
        render(source, xs=[1])


def test_json_in_lines_is_paid_for_by_its_depth():
    value = [1] * 1000
    for _ in range(90):
        value = [value]
    assert len(render("{{ v|tojson }}", RenderBudget(chars=20_000), v=value)) < 10_000
    with pytest.raises(BudgetSpent):
        render("{{ v|tojson(indent=16) }}", RenderBudget(chars=20_000), v=value)
    assert render("{{ v|tojson(indent=1, separators=(',', ': ')) }}", v={"a": [1]}) == '{\n "a": [\n  1\n ]\n}'
