"""Frames: what a stream's parts say, joined, is what the whole answer says; escaping is exact."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.api.chunks import Chunks
from penstock.api.prepare import Prepared
from penstock.core import Event, Finish, FinishReason, Request, SamplingParams, Timing, Usage


def chunks(served, chat, usage=False, echoes=None):
    request = Request("r", (65,), SamplingParams(seed=1, n=2))
    return Chunks(Prepared(served, (request,), chat, True, usage, echoes, None, None), "id", 5)


def finished(sample, text=""):
    finish = Finish(FinishReason.LENGTH, None, Usage(1, 3, 0), Timing(0.0, 0.0, 0.0, 0.0, 0))
    return Event(sample, (1,), text, finish=finish)


def parse(data):
    frames = data.decode().split("\n\n")
    assert frames.pop() == ""
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@pytest.mark.parametrize("chat", [True, False])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=("Cs",))), max_size=5))
def test_joined_texts_survive_any_characters(served, chat, texts):
    made = chunks(served, chat)
    found = []
    for text in [*texts, None]:
        event = finished(0) if text is None else Event(0, (1,), text)
        found += parse(made.frames(0, event))
    shown = [frame["choices"][0] for frame in found]
    joined = "".join(one["delta"].get("content", "") if chat else one["text"] for one in shown)
    assert joined == "".join(texts)
    assert [one["finish_reason"] for one in shown] == [None] * (len(shown) - 1) + ["length"]
    if chat:
        assert shown[0]["delta"] == {"role": "assistant", "content": ""} and shown[-1]["delta"] == {}


def test_an_event_that_shows_nothing_makes_no_frame(served):
    assert chunks(served, False).frames(0, Event(0, (1,), "")) == b""


def test_usage_is_null_in_every_chunk_and_counted_in_the_last(served):
    made = chunks(served, True, usage=True)
    frames = parse(made.frames(0, Event(0, (1,), "x")) + made.frames(0, finished(0)) + made.frames(0, finished(1)))
    assert all(frame["usage"] is None for frame in frames)
    (last,) = parse(made.usage_frame())
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 6
    assert chunks(served, True).usage_frame() == b""


def test_an_echo_opens_each_choice_once(served):
    made = chunks(served, False, echoes=("say: ",))
    first = parse(made.frames(0, Event(1, (1,), "a")))
    assert [frame["choices"][0]["text"] for frame in first] == ["say: ", "a"]
    assert {frame["choices"][0]["index"] for frame in first} == {1}
    assert [frame["choices"][0]["text"] for frame in parse(made.frames(0, Event(1, (1,), "b")))] == ["b"]
