"""Chat templates: messages in, prompt text out.

Knows nothing about tokens' ids or HTTP. Invariant: a template sees checked messages in the form it takes, with marks
where a stranger's text could be mistaken for control tokens, and nothing that was asked for is left out in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from jinja2.exceptions import SecurityError

from penstock.core import InvalidRequest
from penstock.text.marks import Marked
from penstock.text.messages import check_messages, check_tools
from penstock.text.template import CompiledTemplate
from penstock.text.vocab import ControlTokens

# Template options that a request may set, by the kind of value each takes.
_SWITCHES: Final = ("clear_thinking", "drop_thinking", "enable_thinking", "keep_past_thinking", "thinking")
_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
ALLOWED_KWARGS: Final = (*_SWITCHES, "reasoning_effort", "thinking_budget")
_MAX_BUDGET: Final = 2**31 - 1
_ANSWER: Final = "omegaword"


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
        values: dict[str, Any] = dict(names or {})
        if now is not None:
            values["strftime_now"] = lambda layout: _strftime(now(), layout)
        self._plain = CompiledTemplate(source, values, origin)
        self._with_tools = self._plain if tool_source is None else CompiledTemplate(tool_source, values, origin)
        self.alphabet = frozenset(source + (tool_source or ""))

    def mark(
        self,
        controls: ControlTokens,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Marked:
        """The conversation in the form that the template takes, control tokens in it marked.

        Raises:
            InvalidRequest: bad messages or tools, or such that the template would leave out.
        """
        checked, listed = check_messages(messages), check_tools(tools)
        template = self._plain if listed is None else self._with_tools
        if listed is not None and template is self._plain and "tools" not in template.reads:
            raise InvalidRequest(
                "this model's chat template takes no tools.", param="tools", hint="use a model that was made for tools."
            )
        return Marked(controls, template.shape.shaped(checked), listed, self.alphabet)

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
        template = self._plain if marked.tools is None else self._with_tools
        options = check_options(kwargs or {})
        _check_read(options, template)
        messages = marked.messages
        if continue_final_message:
            messages = _continued(messages, marked.end_mark, add_generation_prompt)
        text = template.render(
            {
                **options,
                "messages": messages,
                "tools": template.shape.no_tools if marked.tools is None else marked.tools,
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
            }
        )
        return _cut(text, marked.end_mark) if continue_final_message else text

    def turn_end(self, controls: ControlTokens) -> int | None:
        """The control token that the template writes right after an assistant's answer; None if it writes none."""
        messages = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": _ANSWER}]
        try:
            text = self.render(self.mark(controls, messages), add_generation_prompt=False)
        except InvalidRequest:
            return None
        _, answer, rest = text.rpartition(_ANSWER)
        _, between, control = next(controls.split(rest if answer else ""))
        return None if between.strip() else control


def _strftime(now: datetime, layout: Any) -> str:
    """The date in a layout; field widths, which could ask for gigabytes, are refused."""
    if not isinstance(layout, str) or not re.fullmatch(r"(?:[^%]|%[-#]?[A-Za-z%]){0,256}", layout):
        raise SecurityError("strftime_now takes a short layout without widths")
    return now.strftime(layout)


def check_options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Template options, all of them on the list and of their kind; null asks for nothing.

    Raises:
        InvalidRequest: naming the option.
    """
    asked = {name: value for name, value in kwargs.items() if value is not None}
    for name, value in asked.items():
        if name not in ALLOWED_KWARGS:
            raise _bad_option(_shown(str(name)[:64]), "is not offered.", f"what is: {', '.join(ALLOWED_KWARGS)}.")
        if name in _SWITCHES and not isinstance(value, bool):
            raise _bad_option(name, "must be true or false.")
        if name == "reasoning_effort" and value not in _EFFORTS:
            raise _bad_option(name, "is not one of the values taken.", f"those are {', '.join(_EFFORTS)}.")
        if name == "thinking_budget" and (type(value) is not int or not -1 <= value <= _MAX_BUDGET):
            raise _bad_option(name, "must be a number of tokens.", "-1 is no limit.")
    return asked


def _check_read(options: Mapping[str, Any], template: CompiledTemplate) -> None:
    """Passes if the template reads all options."""
    for name in options.keys() - template.reads:
        # Not to think is what a model does anyway whose template never speaks of it.
        if options[name] is not False or "think" in template.source.lower():
            raise _bad_option(name, "is not read by this model's chat template.", "leave it out.")


def _shown(name: str) -> str:
    """An option's name on one line."""
    return name if name.isidentifier() else repr(name)


def _bad_option(name: str, problem: str, hint: str | None = None) -> InvalidRequest:
    if name == "reasoning_effort":  # also a field of its own
        return InvalidRequest(f"{name} {problem}", param=name, hint=hint)
    return InvalidRequest(f"chat_template_kwargs.{name} {problem}", param="chat_template_kwargs", hint=hint)


def _continued(messages: list[dict[str, Any]], mark: str, add_generation_prompt: bool) -> list[dict[str, Any]]:
    """The messages with a mark at the end of the last one's text."""
    if add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other.", param="continue_final_message"
        )
    content = messages[-1].get("content")
    if isinstance(content, list) and content:
        content = [*content[:-1], {**content[-1], "text": content[-1]["text"] + mark}]
    elif isinstance(content, str):
        content = content + mark
    else:
        raise InvalidRequest("The final message has no text to continue.", param="continue_final_message")
    return [*messages[:-1], {**messages[-1], "content": content}]


def _cut(text: str, mark: str) -> str:
    """The text up to the mark."""
    end = text.rfind(mark)
    if end < 0:
        raise InvalidRequest("The chat template drops the final message.", param="continue_final_message")
    return text[:end].replace(mark, "")
