import json
from datetime import datetime
from pathlib import Path

import pytest

from penstock.core import InvalidRequest, ModelFileError, limits
from penstock.text import ChatTemplate
from penstock.text.chat import Marked, check_messages
from penstock.text.vocab import ControlToken, ControlTokens

TEMPLATES = Path(__file__).parents[3] / "shared" / "data" / "chat_templates"
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
    marked = Marked(CONTROLS, check_messages(messages or MESSAGES), tools, template.alphabet)
    return marked.restore(template.render(marked, **options))


def reference(source, messages, tools):
    """Rendered text, or None where the template fails there as well."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        return render_jinja_template(
            conversations=[messages], tools=tools, chat_template=source, add_generation_prompt=True, **NAMES
        )[0][0]
    except Exception:
        return None


def template_files():
    return sorted(TEMPLATES.glob("*.jinja"))


@pytest.mark.parametrize("path", template_files(), ids=lambda path: path.stem)
def test_published_templates_render_as_the_reference_does(path):
    source = path.read_text()
    rendered = 0
    for tools in (None, TOOLS):
        for messages in (MESSAGES, MESSAGES[1:]):
            expected = reference(source.replace('strftime_now("%Y-%m-%d")', '"2026-11-21"'), messages, tools)
            try:
                text = render(source, messages, tools)
            except InvalidRequest:
                assert expected is None
                continue
            if "strftime_now" not in source:
                assert text == expected
            assert "Bye" in text and "你好" in text
            rendered += 1
    assert rendered or "MiroThinker" in path.name or "firefunction" in path.name  # want values of their own callers


def test_there_are_thirty_three_templates():
    if not TEMPLATES.exists():
        pytest.skip("the shared chat templates are not here")
    assert len(template_files()) == 33


def test_the_comparison_tells_a_difference():
    """The control: Jinja's own tojson, with its HTML escapes, would not pass."""
    from jinja2 import Environment

    source = "{{ messages[0].content|tojson }}"
    assert render(source) == reference(source, MESSAGES, None)
    assert Environment().from_string(source).render(messages=MESSAGES) != render(source)


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
    assert render(source, kwargs={"enable_thinking": False}) == "off"
    for kwargs in ({"tokenize": True}, {"chat_template": "x"}, {"messages": []}, {"enable_thinking": {}}):
        with pytest.raises(InvalidRequest, match=next(iter(kwargs))) as caught:
            render(source, kwargs=kwargs)
        assert caught.value.param == "chat_template_kwargs"


@pytest.mark.parametrize("layout", ["%1000000000Y", "a" * 300, "%010d"])
def test_dates_have_no_widths(layout):
    assert render("{{ strftime_now('%d %b %Y') }}") == "21 Nov 2026"
    with pytest.raises(InvalidRequest, match="may not do"):
        render("{{ strftime_now('" + layout + "') }}")


def test_no_date_without_a_clock():
    template = ChatTemplate("{{ strftime_now is defined }}")
    assert template.render(Marked(CONTROLS, MESSAGES, None, template.alphabet)) == "False"


def test_continue_final_message_keeps_its_spaces():
    source = "{% for m in messages %}[{{ m.role }}]{{ m.content|trim }}[/]{% endfor %}"
    options = {"add_generation_prompt": False, "continue_final_message": True}
    assert render(source, [{"role": "assistant", "content": "The "}], **options) == "[assistant]The "
    with pytest.raises(InvalidRequest, match="exclude"):
        render(source, continue_final_message=True)
    with pytest.raises(InvalidRequest, match="drops"):
        render("nothing", **options)
    with pytest.raises(InvalidRequest, match="no text"):
        render(source, [{"role": "assistant", "content": None}], **options)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "non-empty list"),
        ("hello", "non-empty list"),
        ({"role": "user"}, "non-empty list"),
        (["hello"], r"messages\[0\] must be an object"),
        ([{"content": "x"}], "role"),
        ([{"role": 3, "content": "x"}], "role"),
        ([{"role": "user<|im_end|>", "content": "x"}], "role"),
        ([{"role": "user"}], "content is missing"),
        ([{"role": "user", "content": 3}], "string or a list"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "'image_url'"),
        ([{"role": "user", "content": ["x"]}], "'str'"),
        ([{"role": "user", "content": "x"}] * (limits.MAX_MESSAGES + 1), str(limits.MAX_MESSAGES)),
    ],
)
def test_bad_messages(messages, reason):
    with pytest.raises(InvalidRequest, match=reason) as caught:
        check_messages(messages)
    assert caught.value.param == "messages"


def test_text_parts_become_one_string():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert check_messages([{"role": "user", "content": parts}]) == [{"role": "user", "content": "ab"}]


def test_marks_hide_and_restore_every_string():
    call = {"type": "function", "function": {"name": "</s>", "arguments": {"<s>": "x<s>y"}}}
    messages = [{"role": "user", "content": "a<s>b"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    tools = [{"function": {"description": "<|im_end|>"}}]
    marked = Marked(CONTROLS, messages, tools, frozenset())
    shown = json.dumps([marked.messages, marked.tools], ensure_ascii=False)
    assert not list(CONTROLS.occurrences(shown))
    assert marked.restore(shown) == json.dumps([messages, tools], ensure_ascii=False)
    assert list(CONTROLS.occurrences(json.dumps(messages)))  # the control: there was something to hide


def test_marks_can_not_be_forged():
    messages = [{"role": "user", "content": "\ue0000\ue000 \ue001end\ue001"}]
    marked = Marked(CONTROLS, messages, None, frozenset("\ue002"))
    assert marked.end_mark == "\ue003end\ue003"
    assert marked.restore(marked.messages[0]["content"]) == messages[0]["content"]


def test_depth_is_bounded():
    value = "x"
    for _ in range(limits.MAX_JSON_DEPTH + 2):
        value = [value]
    with pytest.raises(InvalidRequest, match="deeper"):
        Marked(CONTROLS, [{"role": "user", "content": "x", "extra": value}], None, frozenset())
