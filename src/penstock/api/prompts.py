"""From prompts and conversations to token ids, with a gate on characters before anything is tokenized.

Knows nothing about sampling or answers. Invariant: what comes out has at least one id, all of the model's vocabulary.
"""

from __future__ import annotations

from typing import Any, Final

from penstock.api.fields import ChatBody, Message, TokenizeBody
from penstock.api.settings import ServedModel
from penstock.core import ContextLengthExceeded, InvalidRequest, limits

_TEMPLATE_KWARGS: Final = frozenset({"enable_thinking"})


def chat_tokens(asked: ChatBody | TokenizeBody, messages: list[Message], model: ServedModel) -> tuple[int, ...]:
    """The conversation as the model's template writes it, in ids.

    Raises:
        InvalidRequest: the conversation's shape, the template's own refusal, no template, or too long.
    """
    _check_conversation(asked, messages)
    kwargs = _template_kwargs(asked.chat_template_kwargs)
    check_chars(sum(_chars(message) for message in messages), model, "messages")
    tokens = model.tokenizer.encode_chat(
        [_plain(message) for message in messages],
        add_generation_prompt=asked.add_generation_prompt is not False and not asked.continue_final_message,
        continue_final_message=bool(asked.continue_final_message),
        kwargs=kwargs,
    )
    if not tokens:
        raise InvalidRequest("the conversation has no tokens.", param="messages")
    return tokens


def _check_conversation(asked: ChatBody | TokenizeBody, messages: list[Message]) -> None:
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


def _template_kwargs(given: dict[str, Any] | None) -> dict[str, Any]:
    for name, value in (given or {}).items():
        if name not in _TEMPLATE_KWARGS:
            raise InvalidRequest(
                f"chat_template_kwargs.{name[:64]} is not allowed.",
                param="chat_template_kwargs",
                hint=f"taken are: {', '.join(sorted(_TEMPLATE_KWARGS))}.",
            )
        if type(value) is not bool:
            raise InvalidRequest(f"chat_template_kwargs.{name} must be true or false.", param="chat_template_kwargs")
    return dict(given or {})


def _plain(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    content = message.content
    plain: dict[str, Any] = {
        "role": role,
        "content": content if isinstance(content, str) else [{"type": "text", "text": part.text} for part in content],
    }
    if message.name is not None:
        plain["name"] = message.name
    return plain


def _chars(message: Message) -> int:
    if isinstance(message.content, str):
        return len(message.content)
    return sum(len(part.text) for part in message.content)


def as_list(prompt: Any) -> list[Any]:
    """The prompts of a checked `prompt` field, one an entry."""
    return prompt if isinstance(prompt, list) and isinstance(prompt[0], (str, list)) else [prompt]


def prompt_tokens(prompt: Any, model: ServedModel, special: bool) -> tuple[tuple[int, ...], ...]:
    """The ids of each prompt.

    Raises:
        InvalidRequest: empty, mixed, too many, too long, or not of this vocabulary.
    """
    if not isinstance(prompt, (str, list)) or not prompt:
        raise _bad_prompt("prompt is empty, or not a string or list.")
    prompts = as_list(prompt)
    if len(prompts) > limits.MAX_PROMPTS:
        raise _bad_prompt(f"prompt has {len(prompts)} entries; at most {limits.MAX_PROMPTS} are taken.")
    if len({type(entry) for entry in prompts}) > 1:
        raise _bad_prompt("prompt mixes texts and token ids.")
    return tuple(_one_prompt(entry, model, special) for entry in prompts)


def _one_prompt(entry: Any, model: ServedModel, special: bool) -> tuple[int, ...]:
    if isinstance(entry, str):
        check_chars(len(entry), model, "prompt")
        tokens = model.tokenizer.encode(entry, add_special_tokens=special) if entry else ()
    else:
        check_ids(entry, model, "prompt")
        tokens = tuple(entry)
    if not tokens:
        raise _bad_prompt("a prompt has no tokens.")
    return tokens


def _bad_prompt(message: str) -> InvalidRequest:
    return InvalidRequest(
        message, param="prompt", hint="send text, a list of texts, token ids, or a list of lists of token ids."
    )


def check_ids(tokens: list[Any], model: ServedModel, param: str) -> None:
    """Passes if all are ids of the model.

    Raises:
        InvalidRequest: naming `param`.
    """
    if not all(type(token) is int and 0 <= token < model.vocab_size for token in tokens):
        raise InvalidRequest(
            f"{param} has something that is no token id of this model.",
            param=param,
            hint=f"ids are integers in [0, {model.vocab_size}).",
        )


def check_chars(count: int, model: ServedModel, param: str) -> None:
    """A gate before tokenization: so many characters can't be so few tokens, whatever they are.

    Raises:
        ContextLengthExceeded: naming `param`.
    """
    most = model.max_model_tokens * model.tokenizer.max_token_bytes
    if count > most:
        raise ContextLengthExceeded(
            f"{count} characters cannot fit in {model.max_model_tokens} tokens.",
            param=param,
            hint="shorten the prompt.",
        )


def echo_text(prompt: Any, model: ServedModel) -> str:
    """A prompt as text."""
    return prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt, skip_special_tokens=True)
