"""What a template takes is found by showing it small conversations."""

import pytest

from penstock.core import InvalidRequest
from penstock.text.messages import check_messages
from penstock.text.shape import CallForm
from penstock.text.template import CompiledTemplate

CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
PARTS = "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}|{% endfor %}{% endfor %}"
BOTH = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}[{{ part.text }}]{% endfor %}{% endif %}{% endfor %}"
)
CALLS = "{% for m in messages %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.function.name }}: "
OBJECTS = CALLS + "{{ c.function.arguments|tojson }}{% endfor %}{% endfor %}"
TEXTS = CALLS + "{{ '' + c.function.arguments }}{% endfor %}{% endfor %}"
PYTHON = CALLS + "{{ c.function.arguments }}{% endfor %}{% endfor %}"
IS_NONE = (
    "{% for m in messages %}{% if m.content is none %}{{ m.tool_calls|tojson }}{% endif %}{{ m.content }}{% endfor %}"
)
IS_EMPTY = "{% for m in messages %}{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls|tojson }}{% endif %}{% endfor %}"
USER = {"role": "user", "content": "x"}
TWO = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]


def shape_of(source):
    return CompiledTemplate(source, {}, "here").shape


def show(source, messages, tools=None):
    template = CompiledTemplate(source, {}, "here")
    return template.render({"messages": template.shape.shaped(check_messages(messages)), "tools": tools})


def calling(content="", **given):
    call = {"function": {"name": "f", "arguments": '{"a":"é"}'}}
    return [USER, {"role": "assistant", "content": content, "tool_calls": [call], **given}]


@pytest.mark.parametrize(("source", "expected"), [(CHATML, "<user>onetwo"), (PARTS, "one|two|"), (BOTH, "[one][two]")])
def test_parts_go_to_templates_that_read_them(source, expected):
    assert show(source, [{"role": "user", "content": TWO}]) == expected


@pytest.mark.parametrize(("source", "expected"), [(CHATML, "<user>x"), (PARTS, "x|"), (BOTH, "x")])
def test_strings_become_parts_only_where_nothing_else_is_read(source, expected):
    assert show(source, [USER]) == expected


def test_parts_printed_as_json_are_not_read():
    """The control: the words stand in the text, and yet the template does not understand parts."""
    assert show("{% for m in messages %}{{ m.content|tojson }}{% endfor %}", [{"role": "user", "content": TWO}]) == (
        '"onetwo"'
    )


def test_roles_are_looked_at_one_by_one():
    source = BOTH.replace("m.content is string", "m.role == 'system'")
    shape = shape_of(source)
    assert "system" not in shape.parts and "user" in shape.parts


@pytest.mark.parametrize(
    ("source", "expected"), [(OBJECTS, 'xf: {"a": "é"}'), (TEXTS, 'xf: {"a":"é"}'), (PYTHON, 'xf: {"a":"é"}')]
)
def test_arguments_as_objects_or_text(source, expected):
    assert show(source, calling()) == expected


@pytest.mark.parametrize("content", [None, ""])
@pytest.mark.parametrize("source", [IS_NONE, IS_EMPTY])
def test_a_message_of_calls_alone_has_the_content_that_shows_them(source, content):
    text = show(source, calling(content))
    assert '"name": "f"' in text and text.count("None") == (source == IS_NONE)


def test_what_works_as_sent_is_left_alone():
    message = shape_of(OBJECTS).shaped(check_messages(calling("said")))[1]
    assert message["content"] == "said"
    for sent in ({"content": None}, {"content": ""}, {}):
        conversation = calling()
        del conversation[1]["content"]
        conversation[1].update(sent)
        message = shape_of(OBJECTS).shaped(check_messages(conversation))[1]
        assert {key: value for key, value in message.items() if key == "content"} == sent


def test_calls_that_would_be_left_out_are_refused():
    assert shape_of(CHATML).calls is None
    with pytest.raises(InvalidRequest, match=r"messages\[1\]\.tool_calls: .* leaves out tool calls"):
        show(CHATML, calling())


def test_a_role_that_would_be_left_out_is_refused():
    shown = "{{ m.content }}{{ m.tool_calls|tojson if m.tool_calls }}"
    source = "{% for m in messages if m.role != 'tool' %}" + shown + "{% endfor %}"
    conversation = [*calling(), {"role": "tool", "content": "22"}]
    assert shape_of(source).dropped == {"tool"}
    with pytest.raises(InvalidRequest, match=r"messages\[2\]: .* leaves out messages of the role tool"):
        show(source, conversation)
    assert "22" in show(source.replace(" if m.role != 'tool'", ""), conversation)  # the control


def test_a_templates_own_refusal_comes_first():
    refusal = "{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    source = "{% for m in messages %}" + refusal + "{{ m.content }}{% endfor %}"
    shape = shape_of(source)
    assert shape.calls == CallForm(False, ({"content": None}, {"content": ""}, {})) and not shape.dropped
    with pytest.raises(InvalidRequest, match="refuses: no tools"):
        show(source, [*calling(), {"role": "tool", "content": "22"}])


def test_of_a_template_that_shows_nothing_nothing_is_said():
    assert show("nothing", [USER, *calling()]) == "nothing"


def test_developers_are_systems_where_the_role_is_unknown():
    message = {"role": "developer", "content": "x"}
    assert show(CHATML, [message]) == "<system>x"
    assert show(CHATML + "{{ 'developer' in [] }}", [message]).startswith("<developer>x")


def test_a_template_that_goes_over_tools_unasked_gets_an_empty_list():
    source = "{% for tool in tools %}{{ tool.name }}{% endfor %}" + CHATML
    assert shape_of(source).no_tools == []
    assert shape_of(CHATML).no_tools is None


def test_trials_leave_no_traces():
    """A template may change its lists; the next one's trials are the same."""
    source = OBJECTS + "{% set _ = messages.append(messages[0]) %}{% set _ = messages[0].tool_calls or [].append(1) %}"
    assert shape_of(source) == shape_of(source) == shape_of(OBJECTS)


def test_names_and_ids_reach_the_template():
    source = "{% for m in messages %}{{ m.role }} {{ m.name }} {{ m.tool_call_id }};{{ m.content }}{% endfor %}"
    messages = [{**USER, "name": "ann"}, {"role": "tool", "tool_call_id": "t1", "name": "add", "content": "22"}]
    assert show(source, messages) == "user ann ;xtool add t1;22"
