"""Whole answers: what each sample brought, gathered, and the JSON object of it.

Knows nothing about streams' frames or HTTP. Invariant: an answer says every field of the published schema, and usage
counts each prompt once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import penstock
from penstock.api.logprobs import chat_logprobs, legacy_logprobs, prompt_logprobs
from penstock.api.prepare import Prepared
from penstock.api.settings import ServedModel
from penstock.core import Event, Finish, Request, TokenLogprobs, Usage


@dataclass(slots=True)
class Sample:
    """One sample so far."""

    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, event: Event) -> None:
        """Takes one event's deltas in."""
        self.texts.append(event.text)
        self.tokens.extend(event.tokens)
        if event.logprobs is not None:
            self.logprobs.extend(event.logprobs)
        if event.finish is not None:
            self.finish = event.finish


@dataclass(slots=True)
class Gathered:
    """All samples of one prompt."""

    samples: list[Sample]
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None

    def add(self, event: Event) -> None:
        """Takes one event in."""
        self.samples[event.sample].add(event)
        if event.prompt_logprobs is not None:
            self.prompt_logprobs = event.prompt_logprobs


def usage_object(per_prompt: Sequence[Sequence[Finish | None]]) -> dict[str, Any]:
    """The token counts of an answer: prompts once each, outputs of every sample."""
    prompt = cached = output = 0
    for finishes in per_prompt:
        usages: list[Usage] = [finish.usage for finish in finishes if finish is not None]
        prompt += max((usage.prompt_tokens for usage in usages), default=0)
        cached += max((usage.cached_tokens for usage in usages), default=0)
        output += sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def stop_reason(finish: Finish, request: Request) -> str | int | None:
    """The stop string or stop token that the request named and that hit; None at the model's own end."""
    if isinstance(finish.stop, str) or finish.stop in request.sampling.stop_token_ids:
        return finish.stop
    return None


def fingerprint(model: ServedModel) -> str:
    """What besides model, seed and parameters decides the tokens: version, compute tier and KV type, as known."""
    known = [model.details[name] for name in ("tier", "kv_type") if name in model.details]
    return "-".join(["penstock", penstock.__version__, *known])


def answer_head(prepared: Prepared, id: str, created: int, kind: str) -> dict[str, Any]:
    """The fields that whole answers and chunks share."""
    return {
        "id": id,
        "object": kind,
        "created": created,
        "model": prepared.model.name,
        "system_fingerprint": fingerprint(prepared.model),
        "seed": prepared.seed,
    }


def answer_body(prepared: Prepared, gathered: Sequence[Gathered], id: str, created: int) -> bytes:
    """The JSON of a whole answer."""
    kind = "chat.completion" if prepared.chat else "text_completion"
    answer: dict[str, Any] = answer_head(prepared, id, created, kind)
    choice = _chat_choice if prepared.chat else _text_choice
    answer["choices"] = [
        {"index": number * prepared.n + sample, **choice(prepared, number, gathered[number], sample)}
        for number in range(len(gathered))
        for sample in range(prepared.n)
    ]
    answer["usage"] = usage_object([[sample.finish for sample in one.samples] for one in gathered])
    if prepared.chat and prepared.prompt_logprobs is not None:
        answer["prompt_logprobs"] = _prompt_logprobs(prepared, gathered[0])
    return json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()


def _chat_choice(prepared: Prepared, number: int, gathered: Gathered, sample: int) -> Mapping[str, Any]:
    one = gathered.samples[sample]
    shown = None
    if prepared.logprobs is not None:
        shown = chat_logprobs(one.logprobs, prepared.model.tokenizer, prepared.logprobs)
    return {
        "message": {"role": "assistant", "content": "".join(one.texts), "refusal": None},
        "logprobs": shown,
        **_ending(one, prepared.requests[number]),
    }


def _text_choice(prepared: Prepared, number: int, gathered: Gathered, sample: int) -> Mapping[str, Any]:
    one = gathered.samples[sample]
    echo = prepared.echoes[number] if prepared.echoes is not None else ""
    choice: dict[str, Any] = {"text": echo + "".join(one.texts), "logprobs": None}
    if prepared.logprobs is not None:
        before = gathered.prompt_logprobs or () if prepared.echoes is not None else ()
        tokens = [*prepared.requests[number].prompt_tokens, *one.tokens] if before else one.tokens
        choice["logprobs"] = legacy_logprobs(
            [*before, *one.logprobs], tokens, prepared.model.tokenizer, prepared.logprobs, 0 if before else len(echo)
        )
    choice.update(_ending(one, prepared.requests[number]))
    if prepared.prompt_logprobs is not None:
        choice["prompt_logprobs"] = _prompt_logprobs(prepared, gathered)
    return choice


def _prompt_logprobs(prepared: Prepared, gathered: Gathered) -> list[dict[str, Any] | None] | None:
    if gathered.prompt_logprobs is None:
        return None
    return prompt_logprobs(gathered.prompt_logprobs, prepared.model.tokenizer, prepared.prompt_logprobs or 0)


def _ending(one: Sample, request: Request) -> dict[str, Any]:
    assert one.finish is not None
    return {"finish_reason": one.finish.reason.value, "stop_reason": stop_reason(one.finish, request)}
