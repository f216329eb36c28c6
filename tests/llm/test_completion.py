"""Samples that grow by events, and streams over a client of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.core import Event, Finish, FinishReason, InvalidLogits, Request, SamplingParams, Timing, Usage
from penstock.llm import Completion, Sample, TextStream

REQUEST = Request(id="r", prompt_tokens=(1, 2), sampling=SamplingParams(n=2, seed=9), arrival_s=0.0)


class Scripted:
    """A client that plays events and remembers what was cancelled."""

    def __init__(self, *events: Event) -> None:
        self.events = events
        self.cancelled: list[str] = []

    def submit(self, request: Request) -> Iterator[tuple[Event, ...]]:
        return iter([(event,) for event in self.events])

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)


def played(*events: Event) -> tuple[Scripted, TextStream]:
    client = Scripted(*events)
    return client, TextStream(client, REQUEST)  # type: ignore[arg-type]


def finish(sample: int) -> Event:
    return Event(
        sample,
        (5,),
        "!",
        None,
        None,
        Finish(FinishReason.STOP, "!", Usage(2, 2, 0), Timing(0.0, 0.0, 0.0, 0.0, 0)),
        None,
    )


def test_only_the_first_sample_is_read_and_all_are_kept() -> None:
    client, stream = played(Event(0, (3,), "a"), Event(1, (4,), "b"), finish(0), finish(1))
    assert list(stream) == ["a", "!"]
    assert [sample.text for sample in stream.completion.samples] == ["a!", "b!"]
    assert stream.completion.finish_reason == "stop" and stream.completion.samples[1].stop == "!"
    assert stream.completion.tokens == [3, 5] and stream.completion.usage.completion_tokens == 2
    assert stream.completion.seed == 9 and client.cancelled == []


def test_an_error_is_raised_and_the_rest_cancelled() -> None:
    client, stream = played(Event(0, (3,), "a"), Event(0, (), "", error=InvalidLogits("nan")))
    assert next(stream) == "a"
    with pytest.raises(InvalidLogits):
        next(stream)
    assert client.cancelled == ["r"]


def test_closing_early_cancels_once() -> None:
    client, stream = played(Event(0, (3,), "a"), finish(0), finish(1))
    with stream:
        next(stream)
    stream.close()
    assert client.cancelled == ["r"]


def test_log_probabilities_are_none_until_there_are_some() -> None:
    assert Sample().logprobs is None
    found = Completion((1,), [Sample()], 0)
    found.add(Event(0, (3,), "a", logprobs=()))
    assert found.samples[0].logprobs == []
