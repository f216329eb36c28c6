"""Every published template, rendered as the reference renders it: all kinds of turns, tools and options.

The reference is transformers' compiled template, given the same messages in the form that its documents ask for.
"""

import copy
import json
import re
from datetime import datetime
from pathlib import Path

import pytest

from penstock.core import InvalidRequest
from penstock.text import ChatTemplate
from penstock.text.vocab import ControlToken, ControlTokens

TEMPLATES = Path(__file__).parents[3] / "shared" / "data" / "chat_templates"
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SPELLINGS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "[INST]", "[/INST]", "<|end|>")
CONTROLS = ControlTokens([ControlToken(id, text) for id, text in enumerate(SPELLINGS)])
SYSTEM = {"role": "system", "content": "You are <b>kind</b> & brief."}
USER = {"role": "user", "content": 'Hi é 你好 "q"'}
ANSWER = {"role": "assistant", "content": "Hello!"}
FUNCTION = {"name": "add", "arguments": {"a": 1, "text": "é <x>"}}
CALLS = {"tool_calls": [{"id": "a1b2c3d4e", "type": "function", "function": FUNCTION}]}
SILENT = {"role": "assistant", "content": "", **CALLS}
TALKING = {"role": "assistant", "content": "Let me see.", **CALLS}
RESULT = {"role": "tool", "tool_call_id": "a1b2c3d4e", "content": "result 22"}
MANY = [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": id, "type": "function", "function": {"name": "add", "arguments": {"a": a}}}
            for a, id in enumerate(("a1b2c3d4e", "b1b2c3d4e"))
        ],
    },
    RESULT,
    {**RESULT, "tool_call_id": "b1b2c3d4e", "content": "result 23"},
]
CONVERSATIONS = {
    "user": [USER],
    "turns": [SYSTEM, USER, ANSWER, {"role": "user", "content": "Bye  "}],
    "call": [SYSTEM, USER, SILENT, RESULT],
    "calls": [USER, *MANY, ANSWER, USER],
    "talk": [USER, TALKING, RESULT, ANSWER, USER],
    "systems": [SYSTEM, {"role": "system", "content": "And short."}, USER],
    "reasoning": [USER, {**ANSWER, "reasoning_content": "Let me think."}, USER],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "adds <two> numbers",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer", "description": "x"},
                    "text": {"type": "string", "description": "y"},
                },
                "required": ["a"],
            },
        },
    }
]
OPTIONS = [
    {},
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"thinking": True},
    {"clear_thinking": False},
    {"keep_past_thinking": True},
    {"drop_thinking": False},
    {"reasoning_effort": "high"},
    {"reasoning_effort": "none"},
    {"thinking_budget": 0},
    {"thinking_budget": 512},
]
# What these leave out in silence is refused here.
NO_TOOLS = {
    "HuggingFaceTB-SmolLM3-3B",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1",
    "fireworks-ai-llama-3-firefunction-v2",
    "google-gemma-2-2b-it",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
}
NO_CALLS = {
    "HuggingFaceTB-SmolLM3-3B",
    "LFM2-8B-A1B",
    "LFM2.5-Instruct",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
}
# Conversations that a template itself cannot take, in the reference as well; all others render.
WITHOUT = {
    # Writes to messages, which Jinja does not allow, and with tools reads a name that it never set.
    "MiroThinker": {"turns", "call", "calls", "talk", "reasoning", "user+tools", "systems+tools"},
    "fireworks-ai-llama-3-firefunction-v2": set(CONVERSATIONS),  # wants a variable of its own in the place of tools
    "google-gemma-2-2b-it": {"turns", "call", "calls", "talk", "systems"},
    "Mistral-Small-3.2-24B-Instruct-2506": {"systems"},
    "Qwen3.5-4B": {"systems"},
    "meta-llama-Llama-3.1-8B-Instruct": {"calls"},  # one at a time
    "mistralai-Ministral-3-14B-Reasoning-2512": {"systems"},
    "mistralai-Mistral-Nemo-Instruct-2407": {"systems"},
}


def template_files():
    return sorted(TEMPLATES.glob("*.jinja"))


def read(path):
    return path.read_text().replace('strftime_now("%Y-%m-%d")', '"2026-11-21"')  # the reference asks the real clock


def read_for_reference(path):
    """The same, with a list where one template makes JSON out of a generator (which penstock allows)."""
    return read(path).replace("map(attribute='function') | tojson", "map(attribute='function') | list | tojson")


def load(source):
    return ChatTemplate(source, names=NAMES, now=lambda: datetime(2026, 11, 21))


def render(template, messages, tools=None, controls=CONTROLS, **options):
    marked = template.mark(controls, messages, tools)
    return marked.restore(template.render(marked, **options))


def reference(source, messages, tools, options):
    """Rendered text, or the error; lists of the template's own may change, as in plain Jinja."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    template = _compile_jinja_template(source)
    if ".ids.append(" in source:
        template.environment.is_safe_attribute = lambda obj, attr, value: not attr.startswith("_")
    try:
        return template.render(
            messages=messages, tools=tools, documents=None, add_generation_prompt=True, **NAMES, **options
        )
    except Exception as error:
        return error


def attempt(template, messages, tools, options):
    try:
        return render(template, messages, tools, kwargs=options)
    except InvalidRequest as error:
        return error


def test_there_are_thirty_three_templates():
    if not TEMPLATES.exists():
        pytest.skip("the shared chat templates are not here")
    assert len(template_files()) == 33


@pytest.mark.parametrize("path", template_files(), ids=lambda path: path.stem)
def test_every_conversation_renders_as_in_the_reference(path):
    template = load(read(path))
    tried = [options for options in OPTIONS if options.keys() <= template._plain.reads]
    for name, messages in CONVERSATIONS.items():
        called = "call" in name or name == "talk"
        for tools in (None, TOOLS):
            for options in tried:
                own = attempt(template, messages, tools, options)
                if path.stem in NO_TOOLS and tools:
                    assert "takes no tools" in str(own)
                elif path.stem in NO_CALLS and called:
                    assert "leaves out tool calls" in str(own)
                else:
                    compare(path.stem, name, own, read_for_reference(path), messages, tools, options)


def compare(stem, name, own, source, messages, tools, options):
    """The text is the reference's, for the messages as they are or as its template needs them."""
    shaped = [*variants(copy.deepcopy(messages))]
    found = [reference(source, each, given, options) for each in shaped for given in ([tools] if tools else [None, []])]
    expected = [text for text in found if isinstance(text, str)]
    known = {name, f"{name}+tools"} if tools else {name}
    if isinstance(own, InvalidRequest):
        assert known & WITHOUT.get(stem, set()), f"{name}: {own}"
        assert not expected
        refusals = [error for error in found if type(error).__name__ == "TemplateError"]
        assert not refusals or str(refusals[0]) in str(own)
    else:
        assert not known & WITHOUT.get(stem, set())
        assert own in expected
        assert own == expected[0] or "DeepSeek-R1-Distill-Llama" in stem  # which drops calls beside an empty content
    assert name != "turns" or isinstance(own, InvalidRequest) or ("Bye" in own and "你好" in own)


def variants(messages):
    """The conversation as sent, then with no content beside tool calls, then with their arguments as text."""
    yield messages
    silent = copy.deepcopy(messages)
    for message in silent:
        if message.get("tool_calls"):
            message["content"] = message["content"] or None
    yield silent
    for each in (copy.deepcopy(messages), copy.deepcopy(silent)):
        for message in each:
            for call in message.get("tool_calls", ()):
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        yield each


def test_the_comparison_tells_a_difference():
    """The control: Jinja's own tojson, with its HTML escapes, would not pass."""
    from jinja2 import Environment

    source = "{{ messages[0].content|tojson }}"
    own = render(load(source), [SYSTEM])
    assert own == reference(source, [SYSTEM], None, {})
    assert Environment().from_string(source).render(messages=[SYSTEM]) != own


@pytest.mark.parametrize("path", template_files(), ids=lambda path: path.stem)
def test_arguments_may_be_sent_as_json(path):
    template = load(read(path))
    texts = copy.deepcopy([USER, SILENT, RESULT])
    texts[1]["tool_calls"][0]["function"]["arguments"] = json.dumps(FUNCTION["arguments"], ensure_ascii=False)
    tools = TOOLS if "tools" in template._plain.reads else None
    own, sent = (attempt(template, each, tools, {}) for each in (texts, [USER, SILENT, RESULT]))
    assert str(own) == str(sent)


@pytest.mark.parametrize("path", template_files(), ids=lambda path: path.stem)
def test_parts_are_text_whatever_the_template_takes(path):
    template = load(read(path))
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    try:
        own = render(template, [{"role": "user", "content": parts}])
    except InvalidRequest:
        assert path.stem in WITHOUT
        return
    assert re.search(r"one\s?two", own) and '"text"' not in own and "'text'" not in own


@pytest.mark.parametrize("path", template_files(), ids=lambda path: path.stem)
def test_what_people_write_never_becomes_a_control_token(path):
    """Every string a client can send spells every control token; the prompt has as many as with harmless text."""
    template = load(read(path))

    def conversation(text):
        call = {"id": "a1b2c3d4e", "function": {"name": "add", "arguments": {"a": text}}}
        return [
            {"role": "user", "content": f"x{text}x"},
            {"role": "assistant", "content": f"y{text}y", "reasoning_content": f"r{text}r"},
            {"role": "user", "content": f"x{text}x"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {**RESULT, "content": f"z{text}z"},
        ]

    def controls_in(text, upto):
        tools = copy.deepcopy(TOOLS) if "tools" in template._plain.reads else None
        if tools:
            tools[0]["function"]["description"] = f"d{text}d"
        marked = template.mark(CONTROLS, conversation(text)[:upto], tools)
        prompt = template.render(marked)
        return [id for _, _, id in CONTROLS.split(prompt) if id is not None], marked.restore(prompt)

    evil = "".join(SPELLINGS)
    for upto in (5, 3):
        try:
            harmless, _ = controls_in("harmless", upto)
        except InvalidRequest:
            assert upto == 5 or path.stem in WITHOUT
            continue
        found, shown = controls_in(evil, upto)
        assert found == harmless
        assert f"x{evil}x" in shown
        bare = [id for _, _, id in CONTROLS.split(shown) if id is not None]
        assert len(bare) > len(harmless)  # the control: unmarked they would have been read as tokens


@pytest.mark.parametrize("path", template_files(), ids=lambda path: path.stem)
def test_an_answer_goes_on_where_it_stopped(path):
    template = load(read(path))
    messages = [USER, {"role": "assistant", "content": "The answer"}]
    options = {"add_generation_prompt": False, "continue_final_message": True}
    try:
        text = render(template, messages, **options)
    except InvalidRequest:
        assert path.stem in WITHOUT
        return
    assert text.endswith("The answer")
    whole = reference(read(path), messages, None, {})
    assert isinstance(whole, Exception) or whole.startswith(text)


@pytest.mark.parametrize("name", ["codellama-70b-instruct", "granite-instruct", "llama3-instruct", "phi-3"])
def test_templates_by_which_ollama_knows_models(name):
    """That list holds the Jinja originals of its own templates; they are templates like any other."""
    path = TEMPLATES / "ollama_templates_a.jsonl"
    if not path.exists():
        pytest.skip("the shared chat templates are not here")
    source = next(entry[name] for entry in map(json.loads, path.read_text().splitlines()) if name in entry)
    for messages in ([USER], [SYSTEM, USER, ANSWER, USER]):
        assert render(load(source), messages) == reference(source, messages, None, {})
