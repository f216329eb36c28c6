"""The three shapes of log probabilities."""

from __future__ import annotations

import json

from penstock.api.logprobs import IMPOSSIBLE, chat_logprobs, finite, legacy_logprobs, prompt_logprobs
from penstock.core import TokenLogprobs

A = TokenLogprobs(65, -0.25, 3, ((66, -0.1), (67, float("-inf"))))


def test_minus_infinity_is_a_number_that_json_knows():
    assert finite(float("-inf")) == finite(-1e9) == IMPOSSIBLE
    assert finite(-3.5) == -3.5


def test_chat_gives_text_bytes_and_alternatives(served):
    (shown,) = chat_logprobs([A], served.tokenizer, 1)["content"]
    assert (shown["token"], shown["logprob"], shown["bytes"]) == ("A", -0.25, [65])
    assert [top["token"] for top in shown["top_logprobs"]] == ["B"]
    json.dumps(chat_logprobs([A], served.tokenizer, 2), allow_nan=False)


def test_a_token_that_is_half_a_character_shows_its_bytes(served):
    (shown,) = chat_logprobs([TokenLogprobs(0xC3, -1.0, 1, ())], served.tokenizer, 0)["content"]
    assert (shown["token"], shown["bytes"]) == ("\ufffd", [0xC3])


def test_legacy_offsets_run_on_and_the_sampled_token_is_among_the_top(served):
    shown = legacy_logprobs([None, A], [66, 65], served.tokenizer, 1, 10)
    assert shown["tokens"] == ["B", "A"] and shown["text_offset"] == [10, 11]
    assert shown["token_logprobs"] == [None, -0.25]
    assert shown["top_logprobs"] == [None, {"B": -0.1, "A": -0.25}]


def test_prompt_logprobs_carry_ranks_and_the_token_itself(served):
    first, second = prompt_logprobs([None, A], served.tokenizer, 1)
    assert first is None
    assert second["66"] == {"logprob": -0.1, "rank": 1, "decoded_token": "B"}
    assert second["65"]["rank"] == 3
