import pytest

from penstock.core import InvalidRequest
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
