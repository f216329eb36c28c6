"""The request bodies: every field that is honoured, with its strict type, as pydantic models.

Knows nothing about ranges (core checks those) or about how fields are used. Invariant: no field is coerced: `true`,
`"5"` and `1.5` are not integers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from penstock.core import InvalidRequest, limits

_TOKENS = {"type": "array", "items": {"type": "integer"}}
Prompt = Annotated[
    Any,
    WithJsonSchema(
        {
            "oneOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                _TOKENS,
                {"type": "array", "items": _TOKENS},
            ],
            "description": "Text, a list of texts, token ids, or a list of lists of token ids.",
        }
    ),
]
Stop = Annotated[
    Any,
    WithJsonSchema({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Strict(BaseModel):
    """What every body shares: strict types, no unknown field."""

    model_config = ConfigDict(strict=True, extra="forbid")


class StreamOptions(Strict):
    """Options of a streamed answer."""

    include_usage: bool | None = Field(None, description="One more chunk before the end, with the token counts.")
    include_obfuscation: bool | None = Field(None, description="Accepted and ignored.")


class SamplingFields(Strict):
    """Fields of both kinds of completion."""

    model: str = Field(description="A name from GET /v1/models.")
    stream: bool | None = Field(None, description="Answer as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="Only with stream.")
    temperature: float | None = Field(None, description="0 is greedy.")
    top_p: float | None = Field(None, description="In (0, 1]; the likeliest tokens whose mass reaches it are kept.")
    top_k: int | None = Field(None, description="0 or -1 is off.")
    min_p: float | None = Field(
        None, description="In [0, 1]; drops tokens less likely than this share of the likeliest."
    )
    typical_p: float | None = Field(None, description="In (0, 1]; locally typical sampling; 1 is off.")
    repetition_penalty: float | None = Field(None, description="Above 0; 1 is off. Counts prompt and output.")
    presence_penalty: float | None = Field(None, description="In [-2, 2]; once for every token seen in the output.")
    frequency_penalty: float | None = Field(
        None, description="In [-2, 2]; for every time that a token was seen in the output."
    )
    logit_bias: dict[str, float] | None = Field(None, description="Token id as a string to a bias in [-100, 100].")
    seed: int | None = Field(None, description="Drawn if left out; the answer says which one was used.")
    n: int | None = Field(None, description="Samples of each prompt; 1 by default.")
    max_tokens: int | None = Field(
        None, description="Output tokens at most; 16 for text by default, for chat what the context leaves."
    )
    min_tokens: int | None = Field(None, description="No end before that many output tokens.")
    stop: Stop = Field(None, description="A string or up to 16 that end the text.")
    stop_token_ids: Annotated[list[int], Field(fail_fast=True)] | None = Field(
        None, description="Token ids that end the text."
    )
    include_stop_str_in_output: bool | None = Field(None, description="Keep the stop string in the text.")
    ignore_eos: bool | None = Field(None, description="The model's own end tokens do not end the text.")
    prompt_logprobs: int | None = Field(
        None, description="Alternatives beside each prompt token's log probability; not for streams."
    )
    skip_special_tokens: bool | None = Field(
        None, description="Control tokens do not appear in the text; true by default."
    )
    add_special_tokens: bool | None = Field(
        None, description="Put the model's own beginning before it; true by default."
    )
    timeout_s: float | None = Field(
        None, description="Seconds from arrival after which the request ends with an error; none by default."
    )
    cache_salt: str | None = Field(None, description="Requests share cached prefixes only with the same salt.")


class CompletionBody(SamplingFields):
    """POST /v1/completions."""

    prompt: Prompt
    echo: bool | None = Field(None, description="Put the prompt before the output.")
    logprobs: int | None = Field(None, description="Alternatives beside each token's own log probability.")


_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_FUNCTION = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
_ARGUMENTS = {"type": "string", "description": "A JSON object."}
_CALL = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": _ARGUMENTS},
            "required": ["name"],
        },
    },
    "required": ["function"],
}
_TOOL = {
    "type": "object",
    "properties": {"type": {"const": "function"}, "function": _FUNCTION},
    "required": ["function"],
}
# What is in parts, calls and tools is checked by the text room, which says what is wrong with each.
_Objects = list[dict[str, Any]]
Parts = Annotated[
    _Objects,
    Field(fail_fast=True, max_length=limits.MAX_MESSAGES),
    WithJsonSchema({"type": "array", "items": _TEXT_PART}),
]
Calls = Annotated[
    _Objects, Field(fail_fast=True, max_length=limits.MAX_TOOLS), WithJsonSchema({"type": "array", "items": _CALL})
]
Tools = Annotated[
    _Objects, Field(fail_fast=True, max_length=limits.MAX_TOOLS), WithJsonSchema({"type": "array", "items": _TOOL})
]


class Message(Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(
        description="developer means system where the model's template does not know it."
    )
    content: str | Parts | None = Field(None, description="Text; only a message with tool_calls may have none.")
    name: str | None = Field(None, description="Of the speaker or the tool, for templates that show it.")
    tool_calls: Calls | None = Field(None, description="The assistant's calls, in the place of content or beside it.")
    tool_call_id: str | None = Field(None, description="Of the call that a tool's message answers.")
    reasoning_content: str | None = Field(None, description="The assistant's thoughts, for templates that show them.")
    reasoning: str | None = Field(None, description="Another name of reasoning_content.")
    refusal: None = None
    function_call: None = None
    audio: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


Messages = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=limits.MAX_MESSAGES)]


class TemplateFields(Strict):
    """What a conversation's template is given besides the messages."""

    tools: Tools | None = Field(None, description="Functions that the template tells the model of.")
    tool_choice: Any = Field(None, description="auto, or none: the template is not told of the tools.")
    add_generation_prompt: bool | None = Field(None, description="Open the assistant's turn; true by default.")
    continue_final_message: bool | None = Field(
        None, description="Go on with the last message, which is the assistant's."
    )
    reasoning_effort: str | None = Field(None, description="none to max, for templates that read it.")
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Options of the template: enable_thinking and the like; docs/api.md lists them."
    )


class ChatBody(SamplingFields, TemplateFields):
    """POST /v1/chat/completions."""

    messages: Messages = Field(description="The conversation, oldest message first.")
    max_completion_tokens: int | None = Field(None, description="The newer name of max_tokens.")
    logprobs: bool | None = Field(None, description="Give each token's log probability.")
    top_logprobs: int | None = Field(None, description="Alternatives beside each token, up to 20; needs logprobs.")
    parallel_tool_calls: bool | None = Field(None, description="false cannot be promised together with tools.")


class TokenizeBody(TemplateFields):
    """POST /tokenize: either `prompt` or `messages`."""

    model: str | None = Field(None, description="A name from GET /v1/models; the first one by default.")
    prompt: str | None = Field(None, description="A text, in the place of messages.")
    messages: Messages | None = Field(None, description="A conversation, in the place of prompt.")
    add_special_tokens: bool | None = Field(
        None, description="Put the model's own beginning before it; true by default."
    )
    return_token_strs: bool | None = Field(None, description="Give each token's text as well.")


class DetokenizeBody(Strict):
    """POST /detokenize."""

    model: str | None = Field(None, description="A name from GET /v1/models; the first one by default.")
    tokens: Annotated[list[int], Field(fail_fast=True)] = Field(description="Token ids.")


Body = TypeVar("Body", bound=Strict)

# pydantic's kinds of error → what a client reads; everything else is "is not valid".
_WORDS: dict[str, str] = {
    "missing": "is missing",
    "int_type": "must be an integer",
    "float_type": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "text_or_parts": "must be a string or a list of parts",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "literal_error": "is not one of the values taken",
    "extra_forbidden": "is not known",
    "none_required": "is not supported",
    "too_short": "is too short",
    "too_long": "is too long",
}


def check_fields(kind: type[Body], given: dict[str, Any]) -> Body:
    """The body as an object.

    Raises:
        InvalidRequest: naming the first field at fault, and the place within it.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_context=False, include_input=False)
    if others and first["loc"][-1] == "str":  # text or parts: what is wrong with the parts, if it has some
        first = others[0] if others[0]["type"] != "list_type" else {**first, "type": "text_or_parts"}
    place = [str(part)[:64] for part in first["loc"]]
    param = place[0] if place else None
    where = ".".join(part for part in place if not _is_branch(part))
    raise InvalidRequest(
        f"{where or 'the body'} {_WORDS.get(first['type'], 'is not valid')}.",
        param=param,
        code="unknown_parameter" if first["type"] == "extra_forbidden" else None,
        hint="docs/api.md and GET /docs list the fields." if first["type"] == "extra_forbidden" else None,
    )


def _is_branch(part: str) -> bool:
    """Whether a part of a location is pydantic's name of a union's branch, not something the client sent."""
    return part in {"str", "StreamOptions"} or part.startswith(("list[", "dict[", "function-", "constrained-"))
