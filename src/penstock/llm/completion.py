"""What a prompt brought: samples, whole or while they come.

Knows nothing about models or event loops. Invariant: a completion holds every delta of its request in order, or the
request's error was raised.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from penstock.core import EngineClient, Event, Finish, Request, TokenLogprobs, Usage


@dataclass(slots=True)
class Sample:
    """One sample of a completion.

    Attributes:
        text: without the stop string, unless it was asked for.
        tokens: output token ids.
        finish_reason: "stop" or "length".
        stop: the stop string or stop token that matched, or None.
        logprobs: one entry a token where they were asked for.
        usage: token counts of this sample.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish_reason: str = ""
    stop: str | int | None = None
    logprobs: list[TokenLogprobs] | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0, 0))

    def add(self, event: Event) -> None:
        """Takes one event's deltas in."""
        self.text += event.text
        self.tokens.extend(event.tokens)
        if event.logprobs is not None:
            self.logprobs = (self.logprobs or []) + list(event.logprobs)
        if event.finish is not None:
            self._finish(event.finish)

    def _finish(self, finish: Finish) -> None:
        self.finish_reason = finish.reason.value
        self.stop = finish.stop
        self.usage = finish.usage


@dataclass(slots=True)
class Completion:
    """What one prompt brought: `n` samples; `text`, `tokens`, `finish_reason` and `usage` are the first one's.

    Attributes:
        prompt_tokens: ids that the model saw.
        samples: in order of their index.
        seed: the seed that was used; the same request with it gives the same tokens.
        prompt_logprobs: one entry a prompt token (the first None) where they were asked for.
    """

    prompt_tokens: tuple[int, ...]
    samples: list[Sample]
    seed: int
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None

    def add(self, event: Event) -> None:
        """Takes one event in.

        Raises:
            PenstockError: the one that the event carries.
        """
        if event.error is not None:
            raise event.error
        self.samples[event.sample].add(event)
        if event.prompt_logprobs is not None:
            self.prompt_logprobs = event.prompt_logprobs

    @property
    def text(self) -> str:
        """The first sample's text."""
        return self.samples[0].text

    @property
    def tokens(self) -> list[int]:
        """The first sample's token ids."""
        return self.samples[0].tokens

    @property
    def finish_reason(self) -> str:
        """Why the first sample ended: "stop" or "length"."""
        return self.samples[0].finish_reason

    @property
    def usage(self) -> Usage:
        """The first sample's token counts."""
        return self.samples[0].usage


class TextStream:
    """Pieces of the first sample's text as they come; the request starts with the first `next`.

    Attributes:
        completion: fills while the stream is read; whole, with finish reason and usage, once it has ended.

    Closing it, or leaving its `with` block, cancels what has not come yet.
    """

    def __init__(self, client: EngineClient, request: Request) -> None:
        self.completion = empty_completion(request)
        self._pieces = self._read(client, request)

    def _read(self, client: EngineClient, request: Request) -> Generator[str, None, None]:
        done = False
        try:
            for events in client.submit(request):
                for event in events:
                    self.completion.add(event)
                    if event.sample == 0 and event.text:
                        yield event.text
            done = True
        finally:
            if not done:
                client.cancel(request.id)

    def close(self) -> None:
        """Cancels the request unless it has ended."""
        self._pieces.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def empty_completion(request: Request) -> Completion:
    """The completion before its first event."""
    samples = [Sample() for _ in range(request.sampling.n)]
    return Completion(request.prompt_tokens, samples, request.sampling.seed or 0)
