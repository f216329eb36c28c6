"""Chat templates: messages in, prompt text out.

Knows nothing about tokens' ids or HTTP. Invariant: what people wrote stays text. Spellings of control tokens in
messages and tools are replaced by private marks before the template sees them and put back only as ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from jinja2 import Template
from jinja2.exceptions import SecurityError, TemplateError

from penstock.core import InvalidRequest, ModelFileError, limits
from penstock.text.budget import BudgetSpent, RenderBudget
from penstock.text.sandbox import BUDGET, MeteredSandbox, TemplateRefusal, render_error
from penstock.text.vocab import ControlTokens

ALLOWED_KWARGS = ("enable_thinking",)
_FIXED_KEYS = frozenset({"role", "type"})


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies of the messages with text parts joined into strings.

    Raises:
        InvalidRequest: not a non-empty list of objects with a role, too many, or a part that isn't text.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise InvalidRequest("messages must be a non-empty list.", param="messages")
    if len(messages) > limits.MAX_MESSAGES:
        raise InvalidRequest(f"{len(messages)} messages; the limit is {limits.MAX_MESSAGES}.", param="messages")
    return [_check_message(index, message) for index, message in enumerate(messages)]


def _check_message(index: int, message: Any) -> dict[str, Any]:
    """One message, checked."""
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise InvalidRequest(f"{where} must be an object.", param="messages")
    role = message.get("role")
    if not isinstance(role, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", role):
        raise InvalidRequest(f"{where}.role must be a name such as user.", param="messages")
    copy = dict(message)
    content = copy.get("content")
    if isinstance(content, list):
        copy["content"] = "".join(_part_text(where, part) for part in content)
    elif content is not None and not isinstance(content, str):
        raise InvalidRequest(f"{where}.content must be a string or a list of parts.", param="messages")
    elif "content" not in copy and not copy.get("tool_calls"):
        raise InvalidRequest(f"{where}.content is missing.", param="messages")
    return copy


def _part_text(where: str, part: Any) -> str:
    """The text of a content part."""
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise InvalidRequest(
        f"{where}.content has a part of type {str(kind)[:64]!r}; this model takes text.",
        param="messages",
        hint='send {"type": "text", "text": "..."}.',
    )


class Marked:
    """Messages and tools in which a stranger's spellings of control tokens are replaced by marks.

    A mark is a private-use character, a number and the same character; `alphabet` and the texts themselves are
    searched for a private-use character that none of them has, so no text can forge a mark.

    Args:
        controls: the control tokens.
        messages: checked messages.
        tools: tool descriptions, or None.
        alphabet: characters that must not be used for marks.
    """

    def __init__(
        self,
        controls: ControlTokens,
        messages: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        alphabet: frozenset[str],
    ) -> None:
        self._controls = controls
        self._texts: list[str] = []
        used: set[str] = set(alphabet)
        _collect(messages, used, 0)
        _collect(tools, used, 0)
        self._fence = next((chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used), "")
        if not self._fence:
            raise InvalidRequest("The messages use every private-use character there is.", param="messages")
        self._mark = re.compile(f"{self._fence}([0-9]+){self._fence}")
        self.end_mark = f"{self._fence}end{self._fence}"
        self.messages: list[dict[str, Any]] = self._walk(messages)
        self.tools: list[Any] | None = self._walk(list(tools)) if tools is not None else None

    def restore(self, text: str) -> str:
        """The text with its marks replaced by what they stand for."""
        if self._fence not in text:
            return text
        return self._mark.sub(self._original, text).replace(self._fence, "")

    def _original(self, match: re.Match[str]) -> str:
        """What one mark stands for."""
        index = int(match[1]) if len(match[1]) < 9 else len(self._texts)
        return self._texts[index] if index < len(self._texts) else ""

    def _walk(self, value: Any, key: str = "") -> Any:
        """A copy with every string marked, keys included; roles and types are names that were checked."""
        if isinstance(value, str):
            return value if key in _FIXED_KEYS and value.isidentifier() else self._marked(value)
        if isinstance(value, Mapping):
            return {self._marked(str(name)): self._walk(item, str(name)) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._walk(item) for item in value]
        return value

    def _marked(self, text: str) -> str:
        """The text with marks for its risky spans."""
        spans = self._controls.risky(text)
        if not spans:
            return text
        parts, at = [], 0
        for start, end in spans:
            parts += [text[at:start], f"{self._fence}{len(self._texts)}{self._fence}"]
            self._texts.append(text[start:end])
            at = end
        return "".join([*parts, text[at:]])


def _collect(value: Any, used: set[str], depth: int) -> None:
    """Adds the private-use characters of all strings to `used`."""
    if depth > limits.MAX_JSON_DEPTH:
        raise InvalidRequest(f"Nested deeper than {limits.MAX_JSON_DEPTH} levels.", param="messages")
    if isinstance(value, str):
        if not value.isascii():
            used.update(char for char in set(value) if "\ue000" <= char <= "\uf8ff")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _collect(str(name), used, depth + 1)
            _collect(item, used, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, used, depth + 1)


class ChatTemplate:
    """A model's chat template.

    Args:
        source: the template that conversations without tools take.
        tool_source: the one for conversations with tools; None for the same.
        names: special names it may use (bos_token, eos_token, …).
        now: the date and time for `strftime_now`; None leaves that function undefined.
        origin: the file it comes from, for messages.

    Raises:
        ModelFileError: a template longer than MAX_TEMPLATE_CHARS, or one that is no template.
    """

    def __init__(
        self,
        source: str,
        *,
        tool_source: str | None = None,
        names: Mapping[str, str] | None = None,
        now: Callable[[], datetime] | None = None,
        origin: str = "chat template",
    ) -> None:
        self.source = source
        self._plain = _compile(source, origin)
        self._with_tools = self._plain if tool_source is None else _compile(tool_source, origin)
        self._names = dict(names or {})
        self._now = now
        self.alphabet = frozenset(source + (tool_source or ""))

    def render(
        self,
        marked: Marked,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text, marks still in it.

        Raises:
            InvalidRequest: the template refuses the messages or is stopped; an option that isn't offered.
        """
        options = _check_kwargs(kwargs or {})
        messages = marked.messages
        if continue_final_message:
            messages = _continued(messages, marked.end_mark, add_generation_prompt)
        template = self._with_tools if marked.tools else self._plain
        values: dict[str, Any] = {
            **self._names,
            **options,
            "messages": messages,
            "tools": marked.tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        if self._now is not None:
            values["strftime_now"] = partial(_strftime, self._now())
        text = _run(template, values)
        return _cut(text, marked.end_mark) if continue_final_message else text


def _strftime(now: datetime, layout: Any) -> str:
    """The date in a layout; field widths, which could ask for gigabytes, are refused."""
    if not isinstance(layout, str) or not re.fullmatch(r"(?:[^%]|%[-#]?[A-Za-z%]){0,256}", layout):
        raise SecurityError("strftime_now takes a short layout without widths")
    return now.strftime(layout)


def _compile(source: str, origin: str) -> Template:
    """The compiled template; a template that isn't one is the model's fault."""
    if len(source) > limits.MAX_TEMPLATE_CHARS:
        raise ModelFileError(
            f"{origin}: chat template of {len(source)} characters; at most {limits.MAX_TEMPLATE_CHARS} are taken."
        )
    try:
        return MeteredSandbox().from_string(source)
    except (TemplateError, RecursionError, MemoryError, SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f" at line {line}" if line else ""
        raise ModelFileError(f"{origin}: not a valid chat template{where}.") from None


def _run(template: Template, values: dict[str, Any]) -> str:
    """The rendered text, within its limits."""
    pieces: list[str] = []
    size = 0
    try:
        for piece in template.generate({**values, BUDGET: RenderBudget()}):
            size += len(piece)
            if size > limits.MAX_RENDERED_CHARS:
                raise BudgetSpent("too long a prompt")
            pieces.append(piece)
    except TemplateRefusal as error:
        raise InvalidRequest(f"The chat template refuses: {error.message}", param="messages") from None
    except (BudgetSpent, RecursionError, MemoryError, TemplateError) as error:
        raise InvalidRequest(f"Chat template: {render_error(error)}.", param="messages") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InvalidRequest(f"Chat template: {render_error(error)}.", param="messages") from None
    return "".join(pieces)


def _check_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Template options, all of them on the list."""
    for name, value in kwargs.items():
        if name not in ALLOWED_KWARGS:
            raise InvalidRequest(
                f"chat_template_kwargs.{str(name)[:64]} is not offered.",
                param="chat_template_kwargs",
                hint=f"what is: {', '.join(ALLOWED_KWARGS)}.",
            )
        if not isinstance(value, bool):
            raise InvalidRequest(f"chat_template_kwargs.{name} must be true or false.", param="chat_template_kwargs")
    return dict(kwargs)


def _continued(messages: list[dict[str, Any]], mark: str, add_generation_prompt: bool) -> list[dict[str, Any]]:
    """The messages with a mark at the end of the last one's content."""
    if add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other.", param="continue_final_message"
        )
    content = messages[-1].get("content")
    if not isinstance(content, str):
        raise InvalidRequest("The final message has no text to continue.", param="continue_final_message")
    return [*messages[:-1], {**messages[-1], "content": content + mark}]


def _cut(text: str, mark: str) -> str:
    """The text up to the mark."""
    end = text.rfind(mark)
    if end < 0:
        raise InvalidRequest("The chat template drops the final message.", param="continue_final_message")
    return text[:end].replace(mark, "")
