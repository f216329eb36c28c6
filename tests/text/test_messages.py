import json

import pytest

from penstock.core import InvalidRequest, limits
from penstock.text.messages import Arguments, check_messages, check_tools

USER = {"role": "user", "content": "x"}


def calling(function=None, **given):
    """A conversation with one tool call."""
    call = {"id": "1", "type": "function", "function": function or {"name": "f", "arguments": "{}"}, **given}
    return [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]


def arguments_of(given):
    message = check_messages(calling({"arguments": given, "name": "f"}))[1]
    return message["tool_calls"][0]["function"]["arguments"]


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


def test_parts_stay_parts_without_extras():
    parts = [{"type": "text", "text": "a", "cache_control": {}}, {"type": "text", "text": "b"}]
    plain = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert check_messages([{"role": "user", "content": parts}]) == [{"role": "user", "content": plain}]


def test_what_was_sent_is_not_changed():
    messages = calling({"name": "f", "arguments": '{"a": 1}'})
    before = json.dumps(messages)
    check_messages(messages)
    assert json.dumps(messages) == before


def test_arguments_are_an_object_and_its_text():
    assert arguments_of('{"b":1, "a":"é"}') == Arguments({"b": 1, "a": "é"}, '{"b":1, "a":"é"}')
    assert arguments_of({"a": "é"}) == Arguments({"a": "é"}, '{"a": "é"}')
    assert arguments_of("") == arguments_of(None) == Arguments({}, "{}")


@pytest.mark.parametrize(
    "given",
    ["[1]", "null", "{", '{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 2}', "[" * 100_000, '{"a": ' * 90_000, 5, [1],
     {"a": float("nan")}, {"a": object()}, '{"a": ' + "9" * 5000 + "}"],
)  # fmt: skip
def test_arguments_that_are_no_object(given):
    with pytest.raises(InvalidRequest) as caught:
        arguments_of(given)
    assert caught.value.param == "messages" and len(str(caught.value)) < 200


def test_the_amount_of_all_arguments_is_bounded():
    many = json.dumps({"a": [0] * (limits.MAX_JSON_KEYS // 2)})
    call = calling({"name": "f", "arguments": many})[1]
    assert check_messages([USER, call])
    with pytest.raises(InvalidRequest, match=f"too many values.*{limits.MAX_JSON_KEYS}"):
        check_messages([USER, call, call, call])


@pytest.mark.parametrize(
    "messages",
    [
        calling({"arguments": "{}"}),
        calling({"name": "a b", "arguments": "{}"}),
        calling({"name": "a\nb", "arguments": "{}"}),
        calling({"name": "a" * 65, "arguments": "{}"}),
        calling(type="custom"),
        calling(id=5),
        calling(id="x" * 300),
        [{"role": "assistant", "tool_calls": "x"}],
        [{"role": "assistant", "tool_calls": [5]}],
        [{"role": "assistant", "tool_calls": [{"function": "f"}]}],
        [{"role": "assistant", "tool_calls": calling()[1]["tool_calls"] * (limits.MAX_TOOLS + 1)}],
        [{"role": "tool", "content": "x", "tool_call_id": 5}],
        [{"role": "user", "content": "x", "name": ["n"]}],
        [{"role": "assistant", "content": "x", "reasoning": 5}],
        [{"role": "assistant", "content": "x", "reasoning": "a", "reasoning_content": "b"}],
    ],
)
def test_bad_calls_names_and_reasoning(messages):
    with pytest.raises(InvalidRequest) as caught:
        check_messages(messages)
    assert caught.value.param == "messages"


def test_calls_have_their_keys_in_one_order():
    call = check_messages(
        [
            USER,
            {
                "role": "assistant",
                "tool_calls": [
                    {"function": {"arguments": "{}", "name": "f"}, "type": "function", "id": "1", "index": 0}
                ],
            },
        ]
    )[1]["tool_calls"][0]
    assert list(call) == ["id", "type", "function"] and list(call["function"]) == ["name", "arguments"]


def test_no_calls_are_no_calls():
    assert check_messages([{"role": "assistant", "content": "x", "tool_calls": None}]) == [
        {"role": "assistant", "content": "x"}
    ]
    with pytest.raises(InvalidRequest, match="content is missing"):
        check_messages([{"role": "assistant", "tool_calls": []}])


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_has_one_meaning_under_every_name(name):
    message = check_messages([{"role": "assistant", "content": "x", name: "hm"}])[0]
    assert message == {"role": "assistant", "content": "x", "reasoning_content": "hm", "thinking": "hm"}


def test_tools_are_put_in_order():
    tool = {"function": {"parameters": {"type": "object"}, "x-note": 1, "description": "d", "name": "f"}}
    [checked] = check_tools([tool])
    assert list(checked) == ["type", "function"]
    assert list(checked["function"]) == ["name", "description", "parameters", "x-note"]
    assert check_tools(None) is check_tools([]) is None


@pytest.mark.parametrize(
    "tools",
    [
        "x",
        [5],
        [{"type": "function"}],
        [{"type": "web_search", "function": {"name": "f"}}],
        [{"function": {"name": "a b"}}],
        [{"function": {"name": "f"}}] * 2,
        [{"function": {"name": f"f{index}"}} for index in range(limits.MAX_TOOLS + 1)],
        [{"function": {"name": "f", "description": "x" * (limits.MAX_TOOL_DESCRIPTION_CHARS + 1)}}],
        [{"function": {"name": "f", "description": 5}}],
        [{"function": {"name": "f", "parameters": "x"}}],
        [{"function": {"name": "f", "strict": True}}],
    ],
)
def test_bad_tools(tools):
    with pytest.raises(InvalidRequest) as caught:
        check_tools(tools)
    assert caught.value.param == "tools"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "text", "text": "x", "colour": "red"}]}],
        calling(extra=1),
        calling({"name": "f", "arguments": "{}", "output": "x"}),
    ],
)
def test_nothing_that_was_sent_is_left_out_in_silence(messages):
    with pytest.raises(InvalidRequest, match="a field that is not known") as caught:
        check_messages(messages)
    assert (caught.value.param, caught.value.code) == ("messages", "unknown_parameter")


def test_labels_are_left_out():
    assert check_messages(calling(index=0)) == check_messages(calling())
    tool = {"type": "function", "function": {"name": "f"}}
    assert check_tools([{**tool, "cache_control": {"type": "ephemeral"}}]) == [tool]
    with pytest.raises(InvalidRequest, match=r"tools\[0\] has a field"):
        check_tools([{**tool, "server": "x"}])


@pytest.mark.parametrize("part", [{"type": "text"}, {"type": "text", "text": None}, {"type": "text", "text": 5}])
def test_a_text_part_without_a_text_is_called_that(part):
    with pytest.raises(InvalidRequest, match="text part without a text"):
        check_messages([{"role": "user", "content": [part]}])
