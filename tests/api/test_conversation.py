"""Conversations as clients send them: calls and their results, tools, reasoning, and what cannot be promised."""

from __future__ import annotations

import pytest

USER = {"role": "user", "content": "add"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "22"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def prompt(server):
    """The prompt's text for a body's fields."""

    def ask(**given):
        answer = server.post("/v1/chat/completions", {"model": "toy", "messages": [USER], "max_tokens": 1, **given})
        assert answer.status_code == 200, answer.text
        return bytes(token for token in server.engine.requests[-1].prompt_tokens if token < 256).decode()

    return ask


@pytest.fixture
def refused(shared):
    """The error for a body's fields."""

    def ask(route="/v1/chat/completions", **given):
        answer = shared.post(route, {"model": "toy", "messages": [USER], **given})
        assert answer.status_code == 400, answer.text
        return answer.json()["error"]

    return ask


def test_calls_and_results_reach_the_template(prompt):
    shown = prompt(messages=[USER, CALLING, RESULT])
    assert shown == 'user: add\nassistant: [add {"a":1}]\ntool: 22\nassistant:'
    spoken = prompt(messages=[USER, {**CALLING, "content": "Well."}, RESULT])
    assert 'assistant: Well.[add {"a":1}]\n' in spoken


def test_what_the_openai_client_sends_back_is_taken(server):
    """An answer's message, made by another server's tool parser, goes back as the client holds it."""
    from openai.types.chat import ChatCompletionMessage

    message = ChatCompletionMessage.model_validate({"role": "assistant", "content": None, "tool_calls": [CALL]})
    answer = server.client().chat.completions.create(
        model="toy",
        messages=[USER, message, RESULT],
        tools=[TOOL],
        tool_choice="auto",
        parallel_tool_calls=True,
        max_tokens=2,
    )
    assert answer.choices[0].message.content


def test_tools_are_shown_unless_the_choice_is_none(prompt):
    assert prompt(tools=[TOOL]).startswith("tools: add\n")
    assert prompt(tools=[TOOL], tool_choice="auto").startswith("tools: add\n")
    for given in ({"tools": [TOOL], "tool_choice": "none"}, {"tools": []}, {"tools": None}, {"tool_choice": "auto"}):
        assert prompt(**given) == "user: add\nassistant:"


@pytest.mark.parametrize("choice", ["required", "any", {"type": "function", "function": {"name": "add"}}, 5, []])
def test_choices_that_nothing_could_hold_the_model_to(refused, choice):
    error = refused(tools=[TOOL], tool_choice=choice)
    assert (error["param"], error["code"]) == ("tool_choice", "unsupported_parameter")


def test_one_call_at_a_time_cannot_be_promised(refused, prompt):
    error = refused(tools=[TOOL], parallel_tool_calls=False)
    assert (error["param"], error["code"]) == ("parallel_tool_calls", "unsupported_parameter")
    assert prompt(parallel_tool_calls=False) == prompt()


def test_strict_arguments_cannot_be_promised(refused):
    strict = {"type": "function", "function": {"name": "add", "strict": True}}
    assert (refused(tools=[strict])["param"], refused(tools=[strict])["code"]) == ("tools", "unsupported_parameter")


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "refusal", "video_url"])
def test_parts_of_other_kinds_are_named(refused, kind):
    error = refused(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind, kind: {}}]}])
    assert error["param"] == "messages"
    assert "messages[0].content" in error["message"] and repr(kind) in error["message"]


@pytest.mark.parametrize(
    "messages",
    [
        [USER, {"role": "assistant"}],
        [USER, {"role": "assistant", "content": None, "tool_calls": []}],
        [USER, {"role": "user", "content": None, "tool_calls": [CALL]}],
        [{**USER, "tool_calls": [CALL]}],
        [{**USER, "tool_call_id": "call_1"}],
        [{**USER, "reasoning": "hm"}],
        [{"role": "system", "content": "x", "reasoning_content": "hm"}],
        [USER, CALLING, {"role": "tool", "content": "22"}],
        [USER, CALLING, {"role": "tool", "tool_call_id": "call_1"}],
        [USER, CALLING, {"role": "function", "name": "add", "content": "22"}],
        [USER, {**CALLING, "tool_calls": [{**CALL, "type": "custom"}]}, RESULT],
        [USER, {**CALLING, "tool_calls": [{**CALL, "function": {"name": "add", "arguments": "{"}}]}, RESULT],
        [USER, {**CALLING, "tool_calls": [{**CALL, "function": {"name": "a\nb", "arguments": "{}"}}]}, RESULT],
        [USER, {**CALLING, "tool_calls": [CALL] * 129}, RESULT],
        [USER, {**CALLING, "tool_calls": "x"}, RESULT],
        [USER, {"role": "assistant", "content": "x", "function_call": {"name": "add"}}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": ["x"]}],
        [{"role": "user", "content": {"type": "text", "text": "x"}}],
    ],
)
def test_who_may_say_what(refused, messages):
    assert refused(messages=messages)["param"] == "messages"


def test_answers_do_not_repeat_what_was_sent(refused):
    for function in ({"name": "MARK MARK", "arguments": "{}"}, {"name": "MARK", "arguments": "MARK"}):
        error = refused(messages=[USER, {**CALLING, "tool_calls": [{**CALL, "function": function}]}])
        assert "MARK" not in error["message"]


def test_effort_is_a_field_and_an_option(prompt, refused):
    assert '{"reasoning_effort": "low"}' in prompt(reasoning_effort="low")
    both = {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "low", "enable_thinking": True}}
    assert '"enable_thinking": true' in prompt(**both)
    assert refused(reasoning_effort="huge")["param"] == "reasoning_effort"
    different = {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}}
    assert refused(**different)["param"] == "reasoning_effort"


def test_tokenize_takes_the_same_conversations(shared, refused):
    body = {"messages": [USER, CALLING, RESULT], "tools": [TOOL]}
    tokens = shared.post("/tokenize", body).json()["tokens"]
    shown = shared.post("/detokenize", {"tokens": tokens}).json()["prompt"]
    assert shown == '<bos>tools: add\nuser: add\nassistant: [add {"a":1}]\ntool: 22\nassistant:'
    assert refused("/tokenize", tool_choice="required", tools=[TOOL])["param"] == "tool_choice"
