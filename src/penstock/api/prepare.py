"""From a request's bytes to `core.Request`s: fields, template, tokens, limits. Runs in a worker thread.

Knows nothing about HTTP or answers. Invariant: what comes out can be run as it is, or an InvalidRequest says why not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from penstock.api.conversation import chat_tokens
from penstock.api.fields import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    SamplingFields,
    Strict,
    TokenizeBody,
    check_fields,
)
from penstock.api.prompts import as_list, check_chars, check_ids, echo_text, prompt_tokens
from penstock.api.settings import ServedModel
from penstock.api.strict_json import parse_object
from penstock.api.unsupported import honoured_fields
from penstock.core import ContextLengthExceeded, InvalidRequest, Request, SamplingParams, check_sampling, limits

DEFAULT_COMPLETION_TOKENS: Final = 16
_SAME_NAME: Final = (
    "temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "n", "min_tokens", "ignore_eos", "prompt_logprobs", "skip_special_tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what the server draws for the request.

    Attributes:
        id: of the answer; the engine's request ids derive from it.
        seed: used where the request names none.
        tenant: "" without keys.
        arrival_s: on the engines' clock.
        find_model: by name or alias; ModelNotFound.
    """

    id: str
    seed: int
    tenant: str
    arrival_s: float
    find_model: Callable[[str], ServedModel]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that can run.

    Attributes:
        model: that serves it.
        requests: one a prompt; the choice index of prompt p's sample s is p · n + s.
        chat: the shape of the answer.
        stream: whether it is streamed.
        include_usage: whether the stream ends with token counts.
        echoes: prompt texts to put before the outputs, or None.
        logprobs: alternatives to show, or None.
        prompt_logprobs: alternatives a prompt token to show, or None.
    """

    model: ServedModel
    requests: tuple[Request, ...]
    chat: bool
    stream: bool
    include_usage: bool
    echoes: tuple[str, ...] | None
    logprobs: int | None
    prompt_logprobs: int | None

    @property
    def n(self) -> int:
        """Samples a prompt."""
        return self.requests[0].sampling.n

    @property
    def seed(self) -> int:
        """Of the first prompt; prompt p uses seed + p (wrapped to 64 bits)."""
        return self.requests[0].sampling.seed or 0


Body = TypeVar("Body", bound=Strict)


def read_fields(kind: type[Body], body: bytes) -> Body:
    """The body's fields, checked.

    Raises:
        InvalidRequest: see `parse_object`, `honoured_fields`, `check_fields`.
    """
    return check_fields(kind, honoured_fields(parse_object(body), frozenset(kind.model_fields)))


def prepare_completion(body: bytes, caller: Caller) -> Prepared:
    """What POST /v1/completions asks for.

    Raises:
        InvalidRequest: naming the field.
    """
    asked = read_fields(CompletionBody, body)
    model = caller.find_model(asked.model)
    _check_stream(asked)
    sampling = _sampling(asked, model, asked.max_tokens, asked.logprobs)
    echo_logprobs = bool(asked.echo) and asked.logprobs is not None
    if echo_logprobs:
        if asked.stream:
            raise InvalidRequest(
                "echo with logprobs cannot be streamed.", param="echo", hint="leave out stream, echo or logprobs."
            )
        sampling = replace(sampling, prompt_logprobs=max(sampling.prompt_logprobs or 0, asked.logprobs or 0))
    special = asked.add_special_tokens is not False
    prompts = prompt_tokens(asked.prompt, model, special)
    if len(prompts) * sampling.n > limits.MAX_PROMPTS:
        raise InvalidRequest(
            f"{len(prompts)} prompts with n {sampling.n} are {len(prompts) * sampling.n} samples.",
            param="n",
            hint=f"at most {limits.MAX_PROMPTS} are taken in one request.",
        )
    echoes = tuple(echo_text(prompt, model) for prompt in as_list(asked.prompt)) if asked.echo else None
    return Prepared(
        model=model,
        requests=_requests(asked, model, caller, prompts, sampling),
        chat=False,
        stream=bool(asked.stream),
        include_usage=_include_usage(asked),
        echoes=echoes,
        logprobs=asked.logprobs,
        prompt_logprobs=asked.prompt_logprobs,
    )


def prepare_chat(body: bytes, caller: Caller) -> Prepared:
    """What POST /v1/chat/completions asks for.

    Raises:
        InvalidRequest: naming the field.
    """
    asked = read_fields(ChatBody, body)
    model = caller.find_model(asked.model)
    _check_stream(asked)
    sampling = _sampling(asked, model, _chat_max_tokens(asked), _chat_logprobs(asked))
    tokens = chat_tokens(asked, asked.messages, model)
    return Prepared(
        model=model,
        requests=_requests(asked, model, caller, (tokens,), sampling),
        chat=True,
        stream=bool(asked.stream),
        include_usage=_include_usage(asked),
        echoes=None,
        logprobs=sampling.logprobs,
        prompt_logprobs=asked.prompt_logprobs,
    )


def prepare_tokenize(
    body: bytes, find_model: Callable[[str | None], ServedModel]
) -> tuple[TokenizeBody, ServedModel, tuple[int, ...]]:
    """What POST /tokenize asks for: the fields, the model, and the ids.

    Raises:
        InvalidRequest: naming the field.
    """
    asked = read_fields(TokenizeBody, body)
    model = find_model(asked.model)
    if (asked.prompt is None) == (asked.messages is None):
        raise InvalidRequest("exactly one of prompt and messages is needed.", param="prompt")
    if asked.messages is not None:
        return asked, model, chat_tokens(asked, asked.messages, model)
    text = asked.prompt or ""
    check_chars(len(text), model, "prompt")
    return asked, model, model.tokenizer.encode(text, add_special_tokens=asked.add_special_tokens is not False)


def prepare_detokenize(body: bytes, find_model: Callable[[str | None], ServedModel]) -> str:
    """The text that POST /detokenize asks for.

    Raises:
        InvalidRequest: naming the field.
    """
    asked = read_fields(DetokenizeBody, body)
    model = find_model(asked.model)
    if len(asked.tokens) > model.max_model_tokens:
        raise ContextLengthExceeded(
            f"{len(asked.tokens)} tokens; at most {model.max_model_tokens} are taken.", param="tokens"
        )
    check_ids(asked.tokens, model, "tokens")
    return model.tokenizer.decode(asked.tokens, skip_special_tokens=False)


def _check_stream(asked: SamplingFields) -> None:
    if asked.stream_options is not None and not asked.stream:
        raise InvalidRequest("stream_options is for streams only.", param="stream_options", hint="set stream to true.")
    if asked.prompt_logprobs is not None and asked.stream:
        raise InvalidRequest("prompt_logprobs cannot be streamed.", param="prompt_logprobs", hint="leave out stream.")


def _include_usage(asked: SamplingFields) -> bool:
    return asked.stream_options is not None and bool(asked.stream_options.include_usage)


def _sampling(
    asked: SamplingFields, model: ServedModel, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """The model's defaults with what the request names in their place."""
    given: dict[str, Any] = {name: getattr(asked, name) for name in _SAME_NAME if getattr(asked, name) is not None}
    given["max_tokens"] = max_tokens
    given["logprobs"] = logprobs
    if asked.top_k is not None:
        given["top_k"] = 0 if asked.top_k == -1 else asked.top_k
    if asked.include_stop_str_in_output is not None:
        given["include_stop"] = asked.include_stop_str_in_output
    if asked.stop is not None:
        given["stop"] = _stops(asked.stop)
    if asked.stop_token_ids is not None:
        given["stop_token_ids"] = tuple(asked.stop_token_ids)
    if asked.logit_bias is not None:
        given["logit_bias"] = _bias(asked.logit_bias)
    sampling = replace(model.defaults, **given)
    check_sampling(sampling, model.vocab_size)
    return sampling


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > limits.MAX_STOP_STRINGS:
        raise InvalidRequest(
            "stop must be a string or a short list of strings.",
            param="stop",
            hint=f"at most {limits.MAX_STOP_STRINGS} are taken.",
        )
    return tuple(stops)


def _bias(bias: dict[str, float]) -> tuple[tuple[int, float], ...]:
    if len(bias) > limits.MAX_LOGIT_BIAS:
        raise InvalidRequest(
            f"logit_bias has {len(bias)} entries.", param="logit_bias", hint=f"at most {limits.MAX_LOGIT_BIAS}."
        )
    made: dict[int, float] = {}
    for name, value in bias.items():
        if not (name.isascii() and name.isdigit() and len(name) <= 10) or int(name) in made:
            raise InvalidRequest("a key of logit_bias is not a token id, or is there twice.", param="logit_bias")
        made[int(name)] = value
    return tuple(made.items())


def _chat_max_tokens(asked: ChatBody) -> int | None:
    new, old = asked.max_completion_tokens, asked.max_tokens
    if new is not None and old is not None and new != old:
        raise InvalidRequest("max_tokens and max_completion_tokens differ.", param="max_tokens", hint="send one.")
    if new is not None and new < 1:
        raise InvalidRequest("max_completion_tokens is below 1.", param="max_completion_tokens")
    return old if new is None else new


def _chat_logprobs(asked: ChatBody) -> int | None:
    if asked.top_logprobs is None:
        return 0 if asked.logprobs else None
    if not asked.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs.", param="top_logprobs", hint="set logprobs to true.")
    if not 0 <= asked.top_logprobs <= limits.MAX_LOGPROBS:
        raise InvalidRequest(
            "top_logprobs is out of range.", param="top_logprobs", hint=f"it must be from 0 to {limits.MAX_LOGPROBS}."
        )
    return asked.top_logprobs


def _requests(
    asked: SamplingFields,
    model: ServedModel,
    caller: Caller,
    prompts: tuple[tuple[int, ...], ...],
    sampling: SamplingParams,
) -> tuple[Request, ...]:
    seed = caller.seed if sampling.seed is None else sampling.seed
    salt = _salt(asked, caller)
    deadline_s = _deadline(asked, caller)
    if isinstance(asked, CompletionBody) and sampling.max_tokens is None:
        longest = max(len(prompt) for prompt in prompts)
        left = max(1, model.max_model_tokens - longest)
        sampling = replace(
            sampling, max_tokens=max(min(DEFAULT_COMPLETION_TOKENS, left), min(sampling.min_tokens, left))
        )
    made = []
    for index, tokens in enumerate(prompts):
        _check_context(len(tokens), sampling.max_tokens, model)
        made.append(
            Request(
                id=f"{caller.id}-{index}",
                prompt_tokens=tokens,
                sampling=replace(sampling, seed=_wrap(seed + index)),
                eos_token_ids=() if sampling.ignore_eos else model.eos_token_ids,
                arrival_s=caller.arrival_s,
                deadline_s=deadline_s,
                tenant=caller.tenant,
                cache_salt=salt,
            )
        )
    return tuple(made)


def _deadline(asked: SamplingFields, caller: Caller) -> float | None:
    if asked.timeout_s is None:
        return None
    if not 0.0 < asked.timeout_s <= limits.MAX_REQUEST_TIMEOUT_S:
        raise InvalidRequest(
            f"timeout_s is {asked.timeout_s:g}.",
            param="timeout_s",
            hint=f"it must be above 0 and at most {limits.MAX_REQUEST_TIMEOUT_S:g}.",
        )
    return caller.arrival_s + asked.timeout_s


def _salt(asked: SamplingFields, caller: Caller) -> str:
    """Tenants never share cached prefixes; within one, a salt parts them further."""
    salt = asked.cache_salt
    if salt is not None and not 0 < len(salt) <= limits.MAX_CACHE_SALT_CHARS:
        raise InvalidRequest(
            "cache_salt is empty or too long.",
            param="cache_salt",
            hint=f"it must have 1 to {limits.MAX_CACHE_SALT_CHARS} characters.",
        )
    return f"{caller.tenant}:{salt or ''}" if caller.tenant else salt or ""


def _check_context(count: int, max_tokens: int | None, model: ServedModel) -> None:
    if count + (max_tokens or 1) > model.max_model_tokens:
        asked = f" and max_tokens {max_tokens}" if max_tokens is not None else ""
        raise ContextLengthExceeded(
            f"the prompt has {count} tokens{asked}; the context has {model.max_model_tokens}.",
            param="max_tokens" if count < model.max_model_tokens and max_tokens is not None else None,
            hint="shorten the prompt or lower max_tokens.",
        )


def _wrap(seed: int) -> int:
    return (seed + 2**63) % 2**64 - 2**63
