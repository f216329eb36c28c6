from datetime import datetime

import pytest

from penstock.core import ContextLengthExceeded, InvalidRequest, ModelFileError, limits
from penstock.text import ChatTemplate
from penstock.text.chat import ALLOWED_KWARGS
from penstock.text.vocab import ControlToken, ControlTokens

NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
CONTROLS = ControlTokens([ControlToken(1, "<s>"), ControlToken(2, "</s>"), ControlToken(3, "<|im_end|>")])
MESSAGES = [
    {"role": "system", "content": "You are <b>kind</b> & brief."},
    {"role": "user", "content": 'Hi é 你好 "q"'},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye  "},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "adds <two> numbers",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer", "description": "x"}},
                "required": ["a"],
            },
        },
    }
]


def render(source, messages=None, tools=None, **options):
    template = ChatTemplate(source, names=NAMES, now=lambda: datetime(2026, 11, 21))
    marked = template.mark(CONTROLS, messages or MESSAGES, tools)
    return marked.restore(template.render(marked, **options))


def test_a_templates_own_message_reaches_the_caller():
    with pytest.raises(InvalidRequest, match="refuses: System role not supported") as caught:
        render("{{ raise_exception('System role not supported') }}")
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.nothing.more }}",
        "{{ 1 / 0 }}",
        "{{ messages[0]['x']() }}",
        "{{ ''.__class__ + 1 }}",
        "{{ 1 + 'a' }}",
        "{{ 1e999 }}",
        "{{ cycler() }}",
    ],
)
def test_template_errors_are_one_quiet_line(source):
    with pytest.raises(InvalidRequest) as caught:
        render(source)
    assert str(caught.value).startswith("Chat template: the template")
    assert "__" not in str(caught.value) and "\n" not in str(caught.value)


def test_output_is_bounded():
    with pytest.raises(InvalidRequest, match="stopped"):
        render("{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}")
    with pytest.raises(InvalidRequest, match="stopped"):
        render("{% for i in range(10**9) %}{% endfor %}")


def test_broken_templates_are_the_models_fault():
    with pytest.raises(ModelFileError, match="chat template: not a valid chat template at line 2"):
        render("\n{% if %}")
    with pytest.raises(ModelFileError, match="not a valid chat template"):
        render("{{ x|no_such_filter }}")
    with pytest.raises(ModelFileError, match="not a valid chat template"):
        render("{{" + "(" * 20_000 + "1" + ")" * 20_000 + "}}")
    with pytest.raises(ModelFileError, match=str(limits.MAX_TEMPLATE_CHARS)):
        ChatTemplate("a" * (limits.MAX_TEMPLATE_CHARS + 1))


def test_options_by_allowlist():
    source = "{{ 'on' if enable_thinking else 'off' }}"
    assert render(source, kwargs={"enable_thinking": True}) == "on"
    assert (
        render(source, kwargs={"enable_thinking": False}) == render(source, kwargs={"enable_thinking": None}) == "off"
    )
    for kwargs in ({"tokenize": True}, {"chat_template": "x"}, {"messages": []}, {"enable_thinking": {}}):
        with pytest.raises(InvalidRequest, match=next(iter(kwargs))) as caught:
            render(source, kwargs=kwargs)
        assert caught.value.param == "chat_template_kwargs"


@pytest.mark.parametrize("name", ALLOWED_KWARGS)
def test_an_option_that_the_template_does_not_read_is_refused(name):
    value = {"reasoning_effort": "high", "thinking_budget": 5}.get(name, True)
    assert render("{{ " + name + " }}", kwargs={name: value}) == str(value)
    with pytest.raises(InvalidRequest, match=f"{name} is not read by"):
        render("none at all", kwargs={name: value})


def test_not_to_think_is_no_request_where_nothing_thinks():
    assert render("x", kwargs={"enable_thinking": False}) == "x"
    with pytest.raises(InvalidRequest, match="enable_thinking is not read"):
        render("<think>", kwargs={"enable_thinking": False})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("enable_thinking", [1, "true"]),
        ("reasoning_effort", [True, "extreme", 5, ["low"]]),
        ("thinking_budget", [True, 1.5, -2, 2**31, "9"]),
    ],
)
def test_values_of_options(name, values):
    for value in values:
        with pytest.raises(InvalidRequest, match=name):
            render("{{ " + name + " }}", kwargs={name: value})


def test_tools_that_a_template_would_not_show_are_refused():
    with pytest.raises(InvalidRequest, match="takes no tools") as caught:
        render("{{ messages[0].content }}", tools=TOOLS)
    assert caught.value.param == "tools"
    assert "adds <two>" in render("{{ tools|tojson }}", tools=TOOLS)
    template = ChatTemplate("plain", tool_source="for tools")
    assert template.render(template.mark(CONTROLS, MESSAGES, TOOLS)) == "for tools"
    assert template.render(template.mark(CONTROLS, MESSAGES, [])) == "plain"


@pytest.mark.parametrize("layout", ["%1000000000Y", "a" * 300, "%010d"])
def test_dates_have_no_widths(layout):
    assert render("{{ strftime_now('%d %b %Y') }}") == "21 Nov 2026"
    with pytest.raises(InvalidRequest, match="may not do"):
        render("{{ strftime_now('" + layout + "') }}")


def test_no_date_without_a_clock():
    template = ChatTemplate("{{ strftime_now is defined }}")
    assert template.render(template.mark(CONTROLS, MESSAGES)) == "False"


def test_continue_final_message_keeps_its_spaces():
    source = "{% for m in messages %}[{{ m.role }}]{{ m.content|trim }}[/]{% endfor %}"
    options = {"add_generation_prompt": False, "continue_final_message": True}
    assert render(source, [{"role": "assistant", "content": "The "}], **options) == "[assistant]The "
    with pytest.raises(InvalidRequest, match="exclude"):
        render(source, continue_final_message=True)
    with pytest.raises(InvalidRequest, match="drops"):
        render("nothing", **options)
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two "}]}]
    assert render(source, parts, **options) == "[assistant]one two "
    listed = "{% for m in messages %}{% for part in m.content %}<{{ part.text|trim }}>{% endfor %}{% endfor %}"
    assert render(listed, parts, **options) == "<one><two "
    with pytest.raises(InvalidRequest, match="no text"):
        render(source, [{"role": "assistant", "content": None}], **options)


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_cut(byte_level):
    messages = [{"role": "user", "content": "hello " * 1000}]
    with pytest.raises(ContextLengthExceeded, match=r"\d+ characters cannot fit in 4 tokens") as caught:
        byte_level.encode_chat(messages, max_tokens=4)
    assert caught.value.param == "messages"
    assert byte_level.encode_chat(messages, max_tokens=10**6) == byte_level.encode_chat(messages)
    # Marks are longer than what they stand for: the text's own length counts.
    spelled = [{"role": "user", "content": "<s>" * 300}]
    exact = -(-len(byte_level.decode(byte_level.encode_chat(spelled), False)) // byte_level.max_token_bytes)
    assert byte_level.encode_chat(spelled, max_tokens=exact)


@pytest.mark.parametrize("name", ["a\nb", "", "\r", "x" * 500])
def test_options_that_are_not_offered_are_named_on_one_line(name):
    with pytest.raises(InvalidRequest) as caught:
        render("x", kwargs={name: True})
    assert len(str(caught.value).splitlines()) == 1
