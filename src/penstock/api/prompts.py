"""From prompts to token ids, with a gate on characters before anything is tokenized.

Knows nothing about sampling or answers. Invariant: what comes out has at least one id, all of the model's vocabulary.
"""

from __future__ import annotations

from typing import Any

from penstock.api.settings import ServedModel
from penstock.core import ContextLengthExceeded, InvalidRequest, limits


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
