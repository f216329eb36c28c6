"""The form in which a chat template wants its messages, found by showing it small conversations.

Knows nothing about Jinja: a template is a function from messages to text here. Invariant: a message is never left out
of a prompt in silence; what a template does not show is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from penstock.core import InvalidRequest
from penstock.text.messages import Arguments

# What a template makes of messages and tools; None where it fails.
Show = Callable[[list[dict[str, Any]], list[dict[str, Any]] | None], str | None]

ROLES: Final = ("system", "user", "assistant", "tool")
_SILENCES: Final[tuple[dict[str, Any], ...]] = ({"content": None}, {"content": ""}, {})
_ASK: Final = {"role": "user", "content": "ask"}
_FIRST, _SECOND, _KEY = "alphaword", "betaword", "gammaword"
_CALL_ID: Final = "a1b2c3d4e"  # nine letters and digits: some templates insist on that
TOOL: Final = {
    "type": "function",
    "function": {
        "name": "deltaword",
        "description": "d",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "d"}}},
    },
}


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a template takes an assistant's message that calls tools.

    Attributes:
        as_text: arguments as JSON text; as an object otherwise.
        silences: what a message that has calls only may have for its content; the first is as good as any.
    """

    as_text: bool
    silences: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class TemplateShape:
    """What a template takes.

    Attributes:
        parts: roles whose content may be a list of text parts.
        only_parts: those of them whose content must be one.
        dropped: roles whose messages it leaves out.
        calls: how it takes tool calls; None if it leaves them out.
        developer: whether it knows that role.
        no_tools: what it takes for no tools: None, or an empty list if it goes over them unasked.
    """

    parts: frozenset[str]
    only_parts: frozenset[str]
    dropped: frozenset[str]
    calls: CallForm | None
    developer: bool
    no_tools: list[dict[str, Any]] | None = None

    def shaped(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Checked messages (`check_messages`) as the template takes them.

        Raises:
            InvalidRequest: a message or a tool call that the template would leave out.
        """
        return [self._shaped(index, message) for index, message in enumerate(messages)]

    def _shaped(self, index: int, message: dict[str, Any]) -> dict[str, Any]:
        """One message."""
        made = dict(message)
        if made["role"] == "developer" and not self.developer:
            made["role"] = "system"
        role, content = made["role"], made.get("content")
        if role in self.dropped and (content or made.get("tool_calls")):
            raise InvalidRequest(
                f"messages[{index}]: this model's chat template leaves out messages of the role {role}.",
                param="messages",
                hint="use a model that was made for them.",
            )
        if isinstance(content, list) and role not in self.parts:
            made["content"] = "".join(part["text"] for part in content)
        elif isinstance(content, str) and role in self.only_parts:
            made["content"] = [{"type": "text", "text": content}]
        if "tool_calls" in made:
            self._shape_calls(index, made)
        return made

    def _shape_calls(self, index: int, message: dict[str, Any]) -> None:
        """The message's calls with their arguments as text or as objects."""
        if self.calls is None:
            raise InvalidRequest(
                f"messages[{index}].tool_calls: this model's chat template leaves out tool calls.",
                param="messages",
                hint="use a model that was made for tools.",
            )
        if not message.get("content"):
            silence = {key: value for key, value in message.items() if key == "content"}
            if silence not in self.calls.silences:
                message.pop("content", None)
                message.update(self.calls.silences[0])
        message["tool_calls"] = [_with_arguments(call, self.calls.as_text) for call in message["tool_calls"]]


def _with_arguments(call: dict[str, Any], as_text: bool) -> dict[str, Any]:
    """A call whose arguments are plain data."""
    function = call["function"]
    arguments: Arguments = function["arguments"]
    return {**call, "function": {**function, "arguments": arguments.text if as_text else arguments.value}}


def probe(show: Show, *, takes_tools: bool, developer: bool) -> TemplateShape:
    """The shape of the template that `show` renders with.

    Args:
        show: renders, or gives None where the template fails or refuses.
        takes_tools: whether the template reads `tools`.
        developer: whether the template knows the developer role.
    """
    no_tools: list[dict[str, Any]] | None = None
    if takes_tools and show([_ASK], None) is None and show([_ASK], []) is not None:
        no_tools = []
    calls = _probe_calls(show, (no_tools, [TOOL]) if takes_tools else (None,))
    parts, only_parts, dropped = set(), set(), set()
    for role in ROLES:
        plain = show(_conversation(role, _FIRST, calls), no_tools)
        split = show(_conversation(role, [_part(_FIRST), _part(_SECOND)], calls), no_tools)
        takes_text = plain is not None and _FIRST in plain
        # The words must stand there without the list around them: printed as JSON or as a Python list is not read.
        typed = 0 if plain is None else _types(plain)
        if split is not None and _FIRST in split and _SECOND in split and _types(split) <= typed:
            parts.add(role)
            if not takes_text:
                only_parts.add(role)
        elif plain is not None and not takes_text:
            dropped.add(role)
    if "user" in dropped:  # it shows nothing to anybody: a template for other ends, of which nothing can be said
        dropped, calls = set(), calls or CallForm(False, _SILENCES)
    return TemplateShape(frozenset(parts), frozenset(only_parts), frozenset(dropped), calls, developer, no_tools)


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _types(text: str) -> int:
    """How often the key of a content part stands in a text."""
    return text.count('"type"') + text.count("'type'")


def _conversation(role: str, content: Any, calls: CallForm | None) -> list[dict[str, Any]]:
    """A short conversation with one message of that role and content."""
    message = {"role": role, "content": content}
    if role == "system":
        return [message, _ASK]
    if role == "user":
        return [message]
    if role == "assistant":
        return [_ASK, message, _ASK]
    form = calls or CallForm(False, _SILENCES)
    return [_ASK, _calling(form.as_text, form.silences[0]), {**message, "tool_call_id": _CALL_ID, "name": "deltaword"}]


def _calling(as_text: bool, silence: Mapping[str, Any]) -> dict[str, Any]:
    """An assistant's message that calls a tool."""
    value = {_KEY: _SECOND}
    arguments = Arguments(value, f'{{"{_KEY}": "{_SECOND}"}}')
    call = {"id": _CALL_ID, "type": "function", "function": {"name": "deltaword", "arguments": arguments}}
    return {"role": "assistant", **silence, "tool_calls": [_with_arguments(call, as_text)]}


def _probe_calls(show: Show, choices: tuple[list[dict[str, Any]] | None, ...]) -> CallForm | None:
    """The first form of tool calls of which the template shows name and arguments, objects before text.

    None if it renders without them; any form if it renders none of them, so that the caller meets its own refusal.
    """
    rendered = False
    answer = {"role": "tool", "content": "22", "tool_call_id": _CALL_ID, "name": "deltaword"}
    for tools in choices:
        for as_text in (False, True):
            shown = [show([_ASK, _calling(as_text, silence), answer], tools) for silence in _SILENCES]
            nones = [text.count("None") if text is not None and _shows_call(text) else None for text in shown]
            rendered = rendered or any(text is not None for text in shown)
            fewest = min((count for count in nones if count is not None), default=None)
            if fewest is not None:  # a template that prints None for a missing content has not understood it
                good = (silence for silence, count in zip(_SILENCES, nones, strict=True) if count == fewest)
                return CallForm(as_text, tuple(good))
    return None if rendered else CallForm(False, _SILENCES)


def _shows_call(text: str) -> bool:
    """Whether a call's name and arguments stand there, and not as Python would print them."""
    return "deltaword" in text and _SECOND in text and f"{{'{_KEY}'" not in text
