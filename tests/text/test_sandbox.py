# ruff: noqa: E501
import json

import pytest
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from penstock.text.budget import BudgetSpent, RenderBudget
from penstock.text.metered import BUDGET
from penstock.text.sandbox import MeteredSandbox, TemplateRefusal, render_error


def render(source, **values):
    return MeteredSandbox().from_string(source).render({**values, BUDGET: RenderBudget()})


def render_plainly(source, **values):
    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(source).render(values)


HARMLESS = [
    "{% for x in xs %}{{ loop.index }}:{{ x }}{% if not loop.last %}, {% endif %}{% else %}none{% endfor %}",
    "{% macro f(a, b=2) %}<{{ a }}{{ b }}{{ caller() if caller else '' }}>{% endmacro %}{{ f(1) }}{% call f(3) %}c{% endcall %}",
    "{% set ns = namespace(a=1) %}{% for x in xs %}{% set ns.a = ns.a + x %}{% endfor %}{{ ns.a }}{{ 'a' ~ ns.a ~ none }}",
    "{% set t %}a{{ xs|length }}{% endset %}{{ t|upper }}{{ (xs|map('string')|list)|join('-') }}{{ xs[::-1] }}",
    "{{ d.items()|list }}{{ d|dictsort }}{{ d.get('k', 1) }}{{ 'k' in d }}{{ missing }}{{ missing is defined }}{{ xs == [1, 2] }}",
    "{{ 'a,b'.split(',')[-1] }}{{ ' x '.strip() }}{{ 'aXb'.replace('X', '-') }}{{ '-'.join(['a', 'b']) }}{{ 'ab'|indent(2, true) }}",
    "{{ 7 // 2 }} {{ 7 % 2 }} {{ 3 * 'ab' }} {{ [1] + [2] }} {{ -1 }} {{ 1 < 2 < 3 }} {{ xs|selectattr('real', 'eq', 2)|list }}",
    "{{ 'a{}b{}'.format(1, 'x') }}{{ '{1}{0}{{}}{n}'.format(1, 2, n=xs) }}{{ '%s: %d%%' % ('a', 7) }}{{ '%s' % d }}",
    "{% filter upper %}abc{% endfilter %}{% for k, v in d.items() %}{{ k }}{% for x in v recursive %}{{ x }}{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("source", HARMLESS)
def test_metering_changes_no_output(source):
    values = {"xs": [1, 2, 3], "d": {"k": [5], "j": [6, 7]}}
    assert render(source, **values) == render_plainly(source, **values)


BOMBS = [
    "{% set ns = namespace(x=[1]) %}{% for i in range(90000) %}{% for j in range(90000) %}"
    "{% set _ = ns.x.append(i) %}{% endfor %}{% endfor %}",
    "{% set xs = [1] %}{% for x in xs %}{% set _ = xs.append(x) %}{% endfor %}",
    "{% set xs = [1] %}{% set _ = xs.append(xs) %}{{ xs }}",
    "{% set xs = [1] %}{% set _ = xs.append(xs) %}{{ xs|tojson }}",
    "{% set xs = [1] %}{% set _ = xs.append(xs) %}{{ xs == [xs] }}",
    "{{ (range(9999999)|map('string'))|tojson }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(1000000000) %}{% endfor %}",
    "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 1000000000 }}",
    "{{ 1000000000 * 'a' }}",
    "{{ [0] * 1000000000 }}",
    "{{ 9 ** 99999999 }}",
    "{{ '%1000000000d' % 1 }}",
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|tojson }}",
    "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}"
    "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
    "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}"
    "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x is eq(ns.y) }}",
    "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}"
    "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ [ns.x].count(ns.y) }}",
    "{% set s = 'a' * 1000000 %}{{ (range(99999)|map('string'))|join(d=s) }}",
    "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(500) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% set s = 'a' * 1000000 %}{{ s.replace('a', s) }}",
    "{% set s = 'a' * 1000000 %}{{ s|replace('a', s) }}",
    "{% set s = 'a' * 1000000 %}{{ s.join(s) }}",
    "{% set s = 'a' * 1000000 %}{{ range(99999)|join(s) }}",
    "{{ 'a\n'|indent(1000000000) }}",
    "{{ 'a'|indent(1000000000, true) }}",
    "{{ 'a'|indent(width=1000000000, first=true) }}",
    "{{ {'a': 1}|tojson(indent=1000000000) }}",
    "{{ 'a'|center(1000000000) }}",
    "{{ 'a'.center(1000000000) }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ 'a'.zfill(1000000000) }}",
    "{{ '\t'.expandtabs(1000000000) }}",
    "{{ lipsum(n=1000000) }}",
    "{{ '{0:>{1}}'.format(1, 1000000000) }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%.1000000000f' % 1 }}",
    "{% set s = 'a' * 100000 %}{{ ('{0}' * 10000).format(s) }}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = '{0}{0}'.format(ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ '%s' % (ns.x,) }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ '{}'.format(ns.x) }}",
    "{% set s = 'a' * 1000000 %}{% macro f() %}{% for i in range(99999) %}{{ s }}{% endfor %}{% endmacro %}{{ f() }}",
    "{% macro f() %}{% for i in range(99999) %}" + "x" * 9000 + "{% endfor %}{% endmacro %}{{ f() }}",
    "{% set x = 'a' * 16000000 %}{% set ns = namespace(a=[]) %}{% for i in range(100000) %}{% set ns.a = [ns.a, x[1:]] %}{% endfor %}",
    "{% set x = 'a' * 16000000 %}{% for i in range(90000) %}{% if 'zz' in x %}{% endif %}{% endfor %}",
    "{% set x = 'a' * 16000000 %}{% set y = 'a' * 16000000 %}{% for i in range(90000) %}{% if x == y %}{% endif %}{% endfor %}",
    "{% set ns = namespace(a=[]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a is upper }}",
    "{{ '%9999999999d' is odd }}",
    "{{ '%9999999999d' is divisibleby(3) }}",
    "{{ 1.5|round(100000000,'ceil') }}",
    "{% for i in range(90000) %}{% for j in range(90000) if false %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(a=[]) %}{% for i in range(2) %}{% for k in range(40) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{% if loop.changed(ns.a) %}{% endif %}{% set ns.a=[] %}{% endfor %}",
    "{% set ns = namespace(a=(1,2)) %}{% for i in range(60) %}{% set ns.a = (ns.a, ns.a) %}{% endfor %}{{ {}[ns.a] }}",
    "{% set ns = namespace(a=(1,2)) %}{% for i in range(60) %}{% set ns.a = (ns.a, ns.a) %}{% endfor %}{% set x = {ns.a: 1} %}",
    "{% set ns = namespace(a=(1,2)) %}{% for i in range(60) %}{% set ns.a = (ns.a, ns.a) %}{% endfor %}{{ {}.get(ns.a) }}",
    "{% set x = 'a' * 100000 %}{% set y = 'b' * 1000000 %}{{ (x|replace(new=y, old='a'))|length }}",
    "{{ ('a\na'|indent(first=true, width=9999999999))|length }}",
    "{{ ([1]*100000)|tojson(separators=('a'*1000000, ':'))|length }}",
    "{% set ns = namespace(a=[1]*300000) %}{% for i in range(300) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a|tojson(indent=16)|length }}",
    "{% set ns = namespace(a=[]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ {'a': ns.a}.values() }}",
    "{% set x = 'a' * 16000000 %}{% set l = ['zz'] * 90000 %}{{ l|select('in', x)|list|length }}",
    "{% set l = ['zz'] * 15000000 %}{% for i in range(90000) %}{% if 'a' in l %}{% endif %}{% endfor %}",
    "{% set l = ['zz'] * 15000000 %}{% for i in range(90000) %}{% if l.count('a') %}{% endif %}{% endfor %}",
    "{% set ns = namespace(a=[]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ '%s' % ({'a':ns.a}.items()) }}",
    "{% set ns = namespace(a=[]) %}{% for i in range(15) %}{% set ns.a = [ns.a, [1] * 16000000] %}{% endfor %}",
    "{% set l = [1] * 15000000 %}{% for i in range(90000) %}{% set x = joiner(*l) %}{% endfor %}",
    "{% set a = 'a.' * 5000000 %}{{ ([{}]*90000)|map(attribute=a, default={})|list|length }}",
    "{% set x = 'a' * 16000000 %}{% for i in range(90000) %}{{ '' if x is lower }}{% endfor %}",
    "{% set x = 'a' * 16000000 %}{% for i in range(9000) %}{{ {}[x] is defined }}{% endfor %}",
    "{% set x = 'a' * 16000000 %}{% for i in range(90000) %}{% if x < x %}{% endif %}{% endfor %}",
    "{% set d = dict() %}{% set l=[1]*1000000 %}{% for i in range(90000) %}{% set z = l.copy() %}{% endfor %}",
]


@pytest.mark.parametrize("source", BOMBS)
@pytest.mark.timeout(20)
def test_bombs_are_stopped(source):
    with pytest.raises((BudgetSpent, TemplateError, RecursionError, OverflowError)):
        render(source)


ESCAPES = [
    "{{ '{0.__class__}'.format(xs) }}",
    "{{ '{0[0].__class__}'.format(xs) }}",
    "{{ '{0!r:x}'.format(xs) }}",
    "{{ 'a'.format.text.__class__ }}",
    "{{ 'a'.format.__call__.__globals__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ 'a'.format.__globals__ }}",
    "{% set x = 'a'.format_map %}{{ x({}) }}",
    "{{ xs.append(1) }}",
    "{% include 'other' %}",
    "{% import 'other' as o %}",
    "{% extends 'other' %}",
    "{{ (xs|map(attribute='__class__')|list)[0].__mro__ }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_escapes_reach_nothing(source):
    try:
        text = render(source, xs=[1])
    except (TemplateError, TypeError):
        return
    assert "class" not in text and "function" not in text and "module" not in text


def test_text_of_a_namespace_does_not_show_what_it_holds():
    source = "{% set ns = namespace(a=[]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}"
    assert render(source + "{{ ns }}{{ '{}'.format(ns) }}{{ [ns] }}") == "<Namespace><Namespace>[<Namespace>]"


PAID = [
    "{{ 'a' in d }}{{ 'z' not in d }}{{ 2 in xs }}{{ 'b' in 'abc' }}{{ 'z' in missing }}{{ xs is eq([1, 2, 3]) }}",
    "{{ xs[1:] }}{{ 'abc'[::-1] }}{{ xs[xs[0]] }}{{ d['k'] }}{{ {'a' ~ 'b': 1}['ab'] }}{{ 1 < 2 == 2 }}",
    "{% for x in xs if x is odd and x not in [3] %}{{ loop.last }}{{ x }}{% else %}none{% endfor %}",
    "{{ xs|select('in', [1, 2])|list }}{{ ['a']|reject('eq', 'a')|list }}{{ 'abc' is lower }}{{ 4 is divisibleby 2 }}",
    "{{ 2.567|round(2) }}{{ 7|round(method='ceil') }}{{ 'a-b'|replace(new='+', old='-') }}{{ 'a'|indent(first=true, width=3) }}",
    "{% for x in xs %}{{ loop.changed(x // 2) }}{{ loop.cycle('a', 'b') }}{% endfor %}{{ [[1], [2]]|sum(start=[]) }}",
    "{{ xs.index(2) }}{{ xs.count(3) }}{{ d.values()|list }}{{ d.keys() }}{{ 'defined' is test }}{{ 'upper' is filter }}",
]


@pytest.mark.parametrize("source", PAID)
def test_what_is_paid_for_comes_out_as_it_would(source):
    values = {"xs": [1, 2, 3], "d": {"k": [5], "j": [6, 7]}}
    assert render(source, **values) == render_plainly(source, **values)


def test_without_metering_the_bomb_goes_off():
    """The control: Jinja's own sandbox lets strings grow."""
    source = "{% set ns = namespace(x='a') %}{% for i in range(25) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x|length }}"
    assert render_plainly(source) == str(2**25)
    with pytest.raises(BudgetSpent):
        render(source)


def test_tojson_is_plain_json():
    value = {"b": "<é & 'x'>", "a": [1, None, True]}
    assert render("{{ v|tojson }}", v=value) == json.dumps(value, ensure_ascii=False)
    assert render("{{ v|tojson(indent=2) }}", v=value) == json.dumps(value, ensure_ascii=False, indent=2)
    assert render("{{ v|tojson(sort_keys=true) }}", v=value) == json.dumps(value, ensure_ascii=False, sort_keys=True)


def test_raise_exception_and_loop_controls():
    with pytest.raises(TemplateRefusal, match="no more than 3"):
        render("{{ raise_exception('no more than 3') }}")
    assert render("{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}") == "13"
    assert render("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}") == "1"


def test_errors_say_nothing_about_us():
    assert "stopped: too many" in render_error(BudgetSpent("too many steps"))
    assert "nested too deeply" in render_error(RecursionError("x")) and "memory" in render_error(MemoryError())
    for error in (SecurityError("access to attribute '__class__'"), KeyError("/root/secret"), RecursionError("x")):
        text = render_error(error)
        assert "secret" not in text and "__" not in text


def test_long_conversations_are_no_bombs():
    messages = [{"role": "user", "content": "x" * 100}] * 4096
    source = (
        "{% for m in messages %}{% if messages is iterable and loop.index <= messages|length %}"
        "{% if m.role == 'user' and messages[loop.index0 - 1].content|trim != '' %}{{ m.content|trim + '!' }}{% endif %}"
        "{% endif %}{% endfor %}"
    )
    assert len(render(source, messages=messages)) == 101 * 4096


def test_lists_of_a_template_may_grow_and_shrink():
    source = "{% set xs = [1] %}{% set _ = xs.append(2) %}{{ xs.pop(0) }}{{ xs }}"
    assert render(source) == "1[2]"
    with pytest.raises(SecurityError):
        render("{{ xs.clear() }}", xs=[1])
    with pytest.raises(SecurityError):
        render_plainly(source)  # the control: Jinja's own sandbox allows neither


def test_taking_from_long_lists_is_paid_for():
    budget = RenderBudget(steps=400_000)
    source = "{% set xs = range(90000)|list %}{% for i in range(5000) %}{% set _ = xs.pop(0) %}{% endfor %}"
    with pytest.raises(BudgetSpent):
        MeteredSandbox().from_string(source).render({BUDGET: budget})


def test_generators_become_json():
    assert render("{{ xs|map('string')|tojson }}", xs=[1, 2]) == '["1", "2"]'


def test_the_trainers_tag_is_its_body():
    source = "{% for x in xs %}\n{% generation %}\n<{{ x }}>{% set y = x %}\n{% endgeneration %}\n{{ y }}{% endfor %}"
    assert render(source, xs=[1, 2]) == "<1><2>"
    assert render("{% generation %}{% for i in range(3) %}{{ i }}{% endfor %}{% endgeneration %}") == "012"
    with pytest.raises(BudgetSpent):
        render(
            "{% generation %}{% for i in range(99999) %}{% for j in range(99) %}{% endfor %}{% endfor %}{% endgeneration %}"
        )


def test_a_template_may_copy_the_prompt_so_far_at_every_message():
    """As a published one does: its work grows with the square of the conversation."""
    messages = [{"role": "user", "content": "x" * 1000}] * 600
    source = (
        "{% set ns = namespace(out='') %}{% for m in messages %}{% set ns.out = ns.out ~ m.role ~ m.content %}"
        "{% if not ns.out.endswith('-') %}{% set ns.out = ns.out ~ '-' %}{% endif %}{% endfor %}{{ ns.out }}"
    )
    assert len(render(source, messages=messages)) == 1005 * 600
    with pytest.raises(BudgetSpent, match="characters"):  # four bytes each
        render(source, messages=[{"role": "user", "content": "😀" * 1000}] * 1200)
