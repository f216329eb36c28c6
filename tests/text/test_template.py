import pytest

from penstock.core import InvalidRequest, limits
from penstock.text.budget import RenderBudget
from penstock.text.template import CompiledTemplate


def test_names_that_a_template_reads():
    template = CompiledTemplate("{% set a = b %}{{ a }}{% for c in tools %}{{ c }}{% endfor %}", {}, "here")
    assert template.reads == {"b", "tools"}


def test_a_name_that_is_missing_is_told():
    with pytest.raises(InvalidRequest, match="it needs functions, which is not given"):
        CompiledTemplate("{{ 'a' + functions }}", {}, "here").render({})


@pytest.mark.parametrize("source", ["{{ 'a' + __x }}", "{{ 'a' + ({}).b.c }}"])
def test_other_failures_are_one_quiet_line(source):
    with pytest.raises(InvalidRequest, match="does not understand") as caught:
        CompiledTemplate(source, {}, "here").render({})
    assert "_x" not in str(caught.value)


def test_trials_are_short():
    """A template that works itself to death on each trial is stopped long before a request's limit."""
    waste = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    assert CompiledTemplate(waste + "{{ messages }}", {}, "here").shape.dropped == set()
    spent = RenderBudget(limits.MAX_TRIAL_STEPS, limits.MAX_TRIAL_WORK_CHARS)
    with pytest.raises(InvalidRequest, match="too many steps"):
        CompiledTemplate(waste, {}, "here").render({}, spent)
    enough = "{% for i in range(60000) %}{% endfor %}{{ messages[0].content }}"
    assert CompiledTemplate(enough, {}, "here").shape.parts == set()
