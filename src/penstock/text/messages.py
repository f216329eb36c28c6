"""Messages and tools as chat templates know them, checked and in one shape whatever their sender left out.

Knows nothing about templates' sources or tokens. Invariant: what comes out has roles, text and tool calls only; the
arguments of a call are a JSON object, kept both as an object and as the text that was sent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.core import InvalidRequest, limits

REASONING: Final = ("reasoning_content", "reasoning", "thinking")
_LABELS: Final = frozenset({"cache_control", "index"})  # for caches elsewhere, and left over from streams
_PART_HINT: Final = 'send {"type": "text", "text": "..."}.'
_ROLE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_TOOL_NAME: Final = re.compile(rf"[A-Za-z0-9_.-]{{1,{limits.MAX_TOOL_NAME_CHARS}}}")


@dataclass(frozen=True, slots=True)
class Arguments:
    """A tool call's arguments.

    Attributes:
        value: the object.
        text: the same as JSON, the caller's own spelling where there was one.
    """

    value: dict[str, Any]
    text: str


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies of the messages: contents are strings, lists of text parts or None; calls carry `Arguments`.

    Reasoning goes by every name that templates read it under; nothing else is added.

    Raises:
        InvalidRequest: not a non-empty list of objects with a role, too many, or a part that isn't text.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise InvalidRequest("messages must be a non-empty list.", param="messages")
    if len(messages) > limits.MAX_MESSAGES:
        raise InvalidRequest(f"{len(messages)} messages; the limit is {limits.MAX_MESSAGES}.", param="messages")
    checked = [_check_message(index, message) for index, message in enumerate(messages)]
    _check_amount(checked)
    for index, message in enumerate(checked):
        if calls := message.get("tool_calls"):
            where = f"messages[{index}].tool_calls"
            message["tool_calls"] = [_read_arguments(f"{where}[{at}]", call) for at, call in enumerate(calls)]
    return checked


def _check_message(index: int, message: Any) -> dict[str, Any]:
    """One message; its calls' arguments are still as they were sent."""
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise InvalidRequest(f"{where} must be an object.", param="messages")
    role = message.get("role")
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise InvalidRequest(f"{where}.role must be a name such as user.", param="messages")
    copy = dict(message)
    if not copy.get("tool_calls"):
        copy.pop("tool_calls", None)
    else:
        copy["tool_calls"] = _check_calls(where, copy["tool_calls"])
    content = copy.get("content")
    if isinstance(content, (list, tuple)):
        copy["content"] = [{"type": "text", "text": _part_text(where, part)} for part in content]
    elif content is not None and not isinstance(content, str):
        raise InvalidRequest(f"{where}.content must be a string or a list of parts.", param="messages")
    elif "content" not in copy and "tool_calls" not in copy:
        raise InvalidRequest(f"{where}.content is missing.", param="messages")
    for name in ("name", "tool_call_id"):
        if copy.get(name) is None:
            copy.pop(name, None)
        elif not isinstance(copy[name], str) or len(copy[name]) > limits.MAX_NAME_CHARS:
            raise InvalidRequest(f"{where}.{name} must be a short string.", param="messages")
    _spread_reasoning(where, copy)
    return copy


def _check_keys(where: str, given: Mapping[str, Any], known: set[str], param: str) -> None:
    """Passes if nothing was sent that would be left out, hints and labels aside."""
    unknown = given.keys() - known - _LABELS
    if unknown:
        raise InvalidRequest(
            f"{where} has a field that is not known.",
            param=param,
            code="unknown_parameter",
            hint=f"known are {', '.join(sorted(known))}.",
        )


def _part_text(where: str, part: Any) -> str:
    """The text of a content part."""
    if isinstance(part, Mapping) and part.get("type") == "text":
        if not isinstance(part.get("text"), str):
            raise InvalidRequest(f"{where}.content has a text part without a text.", param="messages", hint=_PART_HINT)
        _check_keys(f"{where}.content", part, {"type", "text"}, "messages")
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise InvalidRequest(
        f"{where}.content has a part of type {str(kind)[:64]!r}; this model takes text.",
        param="messages",
        hint=_PART_HINT,
    )


def _spread_reasoning(where: str, message: dict[str, Any]) -> None:
    """Puts earlier reasoning under both names that templates read."""
    given = [message[name] for name in REASONING if message.get(name) is not None]
    for name in REASONING:
        message.pop(name, None)
    if not given:
        return
    if not all(isinstance(text, str) for text in given) or len(set(given)) > 1:
        raise InvalidRequest(f"{where}: reasoning must be one text.", param="messages", hint="send reasoning_content.")
    message["reasoning_content"] = message["thinking"] = given[0]


def _check_calls(where: str, calls: Any) -> list[dict[str, Any]]:
    """The tool calls of one message, their arguments unread."""
    if not isinstance(calls, (list, tuple)) or len(calls) > limits.MAX_TOOLS:
        raise InvalidRequest(
            f"{where}.tool_calls must be a list.", param="messages", hint=f"at most {limits.MAX_TOOLS} are taken."
        )
    return [_check_call(f"{where}.tool_calls[{index}]", call) for index, call in enumerate(calls)]


def _check_call(where: str, call: Any) -> dict[str, Any]:
    """One call with its keys in the order that templates print them in."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or call.get("type", "function") != "function":
        raise InvalidRequest(f"{where} must be of type function and have one.", param="messages")
    name = function.get("name")
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        raise InvalidRequest(f"{where}.function.name is not a tool's name.", param="messages", hint=_NAME_HINT)
    _check_keys(where, call, {"id", "type", "function"}, "messages")
    _check_keys(f"{where}.function", function, {"name", "arguments"}, "messages")
    checked: dict[str, Any] = {}
    if (id := call.get("id")) is not None:
        if not isinstance(id, str) or len(id) > limits.MAX_NAME_CHARS:
            raise InvalidRequest(f"{where}.id must be a short string.", param="messages")
        checked["id"] = id
    return {**checked, "type": "function", "function": {"name": name, "arguments": function.get("arguments")}}


_NAME_HINT: Final = f"a name has 1 to {limits.MAX_TOOL_NAME_CHARS} of A-Z a-z 0-9 _ . -"


def _check_amount(messages: list[dict[str, Any]]) -> None:
    """Counts what all calls' arguments will become before any of them is parsed."""
    count = 0
    for message in messages:
        for call in message.get("tool_calls", ()):
            text = call["function"]["arguments"]
            if isinstance(text, str):
                count += sum(map(text.count, "[{,"))
    if count > limits.MAX_JSON_KEYS:
        raise InvalidRequest(
            "the arguments of all tool calls have too many values.",
            param="messages",
            hint=f"at most {limits.MAX_JSON_KEYS} are taken.",
        )


def _read_arguments(where: str, call: dict[str, Any]) -> dict[str, Any]:
    """The call with its arguments read; none at all are an empty object."""
    function, given = call["function"], call["function"]["arguments"]
    try:
        if given is None or given == "":
            arguments = Arguments({}, "{}")
        elif isinstance(given, Mapping):
            arguments = Arguments(dict(given), json.dumps(given, ensure_ascii=False, allow_nan=False))
        else:
            arguments = Arguments(_parsed(given), given)
    except (ValueError, TypeError, RecursionError):
        raise InvalidRequest(f"{where}.function.arguments is not a JSON object.", param="messages") from None
    return {**call, "function": {**function, "arguments": arguments}}


def _parsed(text: str) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        ValueError, TypeError, RecursionError: there is none, or it has what JSON cannot hold, or a key twice.
    """
    value = json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
    if not isinstance(value, dict):
        raise ValueError
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; no key may come twice."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError
    return made


def _finite(text: str) -> float:
    """A number that JSON can hold."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def check_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Copies of the tools with their keys in the order that templates print them in; None for an empty list.

    Raises:
        InvalidRequest: too many, not functions, a bad or repeated name, or a promise that cannot be kept (strict).
    """
    if not tools:
        return None
    if not isinstance(tools, (list, tuple)) or len(tools) > limits.MAX_TOOLS:
        raise InvalidRequest("tools must be a list.", param="tools", hint=f"at most {limits.MAX_TOOLS} are taken.")
    checked = [_check_tool(f"tools[{index}]", tool) for index, tool in enumerate(tools)]
    if len({tool["function"]["name"] for tool in checked}) < len(checked):
        raise InvalidRequest("two tools have the same name.", param="tools")
    return checked


def _check_tool(where: str, tool: Any) -> dict[str, Any]:
    """One tool."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
        raise InvalidRequest(f"{where} must be of type function and have one.", param="tools")
    _check_keys(where, tool, {"type", "function"}, "tools")
    name, about, parameters = (function.get(key) for key in ("name", "description", "parameters"))
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        raise InvalidRequest(f"{where}.function.name is not a tool's name.", param="tools", hint=_NAME_HINT)
    if about is not None and (not isinstance(about, str) or len(about) > limits.MAX_TOOL_DESCRIPTION_CHARS):
        raise InvalidRequest(
            f"{where}.function.description is too long or no string.",
            param="tools",
            hint=f"at most {limits.MAX_TOOL_DESCRIPTION_CHARS} characters are taken.",
        )
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InvalidRequest(f"{where}.function.parameters must be a JSON schema (an object).", param="tools")
    if function.get("strict"):
        raise InvalidRequest(
            f"{where}.function.strict is not supported.",
            param="tools",
            code="unsupported_parameter",
            hint="leave it out: arguments are not held to the schema.",
        )
    known = {"name": name, "description": about, "parameters": parameters}
    rest = {key: value for key, value in function.items() if key not in known}
    present = {key: value for key, value in known.items() if value is not None}
    return {"type": "function", "function": {**present, **rest}}
