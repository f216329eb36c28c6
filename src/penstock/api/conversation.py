"""From a conversation's fields to token ids: who may say what, tools, and the template's options.

Knows nothing about sampling or answers; templates are the text room's. Invariant: a field that the template would be
given is either given to it or refused by name.
"""

from __future__ import annotations

from typing import Any

from penstock.api.fields import ChatBody, Message, TemplateFields
from penstock.api.prompts import check_chars
from penstock.api.settings import ServedModel
from penstock.core import InvalidRequest

_CANNOT_PROMISE = "leave it out: calls are the model's own text, nothing holds it to them."


def chat_tokens(asked: TemplateFields, messages: list[Message], model: ServedModel) -> tuple[int, ...]:
    """The conversation as the model's template writes it, in ids.

    Raises:
        InvalidRequest: the conversation's shape, the template's own refusal, no template, or too long.
    """
    for index, message in enumerate(messages):
        _check_message(f"messages[{index}]", message)
    _check_end(asked, messages)
    tools = _shown_tools(asked)
    kwargs = _options(asked)
    check_chars(sum(_chars(message) for message in messages), model, "messages")
    tokens = model.tokenizer.encode_chat(
        [_plain(message) for message in messages],
        tools=tools,
        add_generation_prompt=asked.add_generation_prompt is not False and not asked.continue_final_message,
        continue_final_message=bool(asked.continue_final_message),
        kwargs=kwargs,
        max_tokens=model.max_model_tokens,
    )
    if not tokens:
        raise InvalidRequest("the conversation has no tokens.", param="messages")
    return tokens


def _check_message(where: str, message: Message) -> None:
    """Who may have which fields."""
    if message.content is None and not (message.role == "assistant" and message.tool_calls):
        raise InvalidRequest(f"{where}.content is missing.", param="messages")
    if message.role == "tool" and message.tool_call_id is None:
        raise InvalidRequest(
            f"{where}.tool_call_id is missing.", param="messages", hint="a tool's message names the call it answers."
        )
    if message.role != "tool" and message.tool_call_id is not None:
        raise InvalidRequest(f"{where}.tool_call_id is for the role tool.", param="messages")
    if message.role == "assistant":
        return
    for name in ("tool_calls", "reasoning_content", "reasoning"):
        if getattr(message, name) is not None:
            raise InvalidRequest(f"{where}.{name} is for the role assistant.", param="messages")


def _check_end(asked: TemplateFields, messages: list[Message]) -> None:
    """How a conversation may end."""
    if len(messages) > 1 and messages[-1].role == messages[-2].role == "assistant":
        raise InvalidRequest(
            "the conversation ends with two assistant messages.", param="messages", hint="join them into one."
        )
    if not asked.continue_final_message:
        return
    if messages[-1].role != "assistant":
        raise InvalidRequest("the final message is not the assistant's.", param="continue_final_message")
    if asked.add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other.", param="add_generation_prompt"
        )


def _shown_tools(asked: TemplateFields) -> list[dict[str, Any]] | None:
    """The tools that the template is told of; none of them if the choice is none."""
    if asked.tool_choice not in (None, "auto", "none"):
        raise InvalidRequest(
            "tool_choice other than auto and none is not supported.",
            param="tool_choice",
            code="unsupported_parameter",
            hint=_CANNOT_PROMISE,
        )
    if asked.tools and isinstance(asked, ChatBody) and asked.parallel_tool_calls is False:
        raise InvalidRequest(
            "parallel_tool_calls false is not supported together with tools.",
            param="parallel_tool_calls",
            code="unsupported_parameter",
            hint=_CANNOT_PROMISE,
        )
    return asked.tools if asked.tools and asked.tool_choice != "none" else None


def _options(asked: TemplateFields) -> dict[str, Any]:
    """The template's options, of which one is a field of its own as well."""
    options = dict(asked.chat_template_kwargs or {})
    effort = asked.reasoning_effort
    if effort is None:
        return options
    if options.get("reasoning_effort", effort) != effort:
        raise InvalidRequest(
            "reasoning_effort and chat_template_kwargs.reasoning_effort differ.",
            param="reasoning_effort",
            hint="send one.",
        )
    return {**options, "reasoning_effort": effort}


def _plain(message: Message) -> dict[str, Any]:
    """The message as the text room takes it: the fields that were sent."""
    sent = message.model_dump(exclude_none=True, exclude={"annotations"})
    if message.content is None and "content" in message.model_fields_set:
        sent["content"] = None
    return sent


def _chars(message: Message) -> int:
    """Characters of a message's content, as far as they are text."""
    if isinstance(message.content, list):
        texts = (part.get("text") for part in message.content)
        return sum(len(text) for text in texts if isinstance(text, str))
    return len(message.content or "")
