"""Whole answers: usage, stop reasons, choice order."""

from __future__ import annotations

import json
from dataclasses import replace

import penstock
from penstock.api.answers import Gathered, Sample, answer_body, fingerprint, stop_reason, usage_object
from penstock.api.prepare import Prepared
from penstock.core import Event, Finish, FinishReason, Request, SamplingParams, Timing, Usage

TIMING = Timing(0.0, 0.0, 0.0, 0.0, 0)


def ending(output, cached=0, prompt=5, stop=None):
    return Finish(FinishReason.STOP, stop, Usage(prompt, output, cached), TIMING)


def gathered(*texts):
    one = Gathered([Sample() for _ in texts])
    for index, text in enumerate(texts):
        for at, letter in enumerate(text):
            one.add(Event(index, (ord(letter),), letter, finish=ending(len(text)) if at == len(text) - 1 else None))
    return one


def prepared(served, prompts, n, **given):
    requests = tuple(Request(f"r{p}", (65,) * 5, SamplingParams(n=n, seed=9 + p)) for p in range(prompts))
    fields = {"chat": False, "stream": False, "include_usage": False, "echoes": None, "logprobs": None}
    return Prepared(served, requests, **{**fields, "prompt_logprobs": None, **given})


def test_usage_counts_each_prompt_once_and_every_sample():
    counted = usage_object([[ending(3, cached=4), ending(2, cached=1)], [ending(7, prompt=10)]])
    assert counted["prompt_tokens"] == 15
    assert counted["completion_tokens"] == 12
    assert counted["total_tokens"] == 27
    assert counted["prompt_tokens_details"] == {"cached_tokens": 4}


def test_a_sample_that_never_finished_counts_nothing():
    assert usage_object([[None]])["total_tokens"] == 0


def test_the_stop_reason_is_what_the_request_named():
    request = Request("r", (1,), SamplingParams(stop_token_ids=(42,)))
    assert stop_reason(ending(1, stop="END"), request) == "END"
    assert stop_reason(ending(1, stop=42), request) == 42
    assert stop_reason(ending(1, stop=257), request) is None  # the model's own end


def test_choices_are_numbered_prompt_by_prompt(served):
    answer = json.loads(answer_body(prepared(served, 2, 2), [gathered("ab", "c"), gathered("d", "ef")], "id", 77))
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "ab"), (1, "c"), (2, "d"), (3, "ef"),
    ]  # fmt: skip
    assert (answer["object"], answer["created"], answer["seed"], answer["model"]) == ("text_completion", 77, 9, "toy")
    assert answer["usage"]["completion_tokens"] == 6


def test_echoed_text_stands_before_the_output(served):
    answer = json.loads(answer_body(prepared(served, 1, 1, echoes=("in:",)), [gathered("out")], "id", 0))
    assert answer["choices"][0]["text"] == "in:out"


def test_a_chat_answer_has_the_published_fields(served):
    answer = json.loads(answer_body(prepared(served, 1, 1, chat=True), [gathered("hi")], "id", 0))
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "hi", "refusal": None}
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_the_fingerprint_tells_what_else_decides_the_tokens(served):
    details = {"tier": "avx2", "kv_type": "f16", "threads": "4"}
    assert fingerprint(replace(served, details=details)) == f"penstock-{penstock.__version__}-avx2-f16"
    assert fingerprint(served) == f"penstock-{penstock.__version__}"
