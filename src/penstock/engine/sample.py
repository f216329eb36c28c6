"""One sample on its way out: committed tokens become text deltas, stop strings end it, usage is counted.

Knows nothing about threads, streams or the scheduler. Invariant: nothing is given out after the finish, and usage
counts exactly the tokens that were given out.
"""

from __future__ import annotations

from penstock.core import (
    Event,
    Finish,
    FinishReason,
    Outcome,
    Request,
    StreamDecoder,
    TextDecoder,
    Timing,
    TokenLogprobs,
    Usage,
)
from penstock.text import StopMatcher


class SampleOutput:
    """The text side of one sample.

    Args:
        request: what was asked.
        sample: its index.
        text: makes the decoder; unused where the request asks for no text.

    Attributes:
        finished: whether the finish has been given out.
        num_tokens: output tokens given out; who calls `plain` counts them.
        plain: decodes where tokens are nothing but tokens: no stop strings, no prompt logprobs, no finish yet. Most
            rows of most steps; None where `push` has more to do.
    """

    __slots__ = (
        "_decoder",
        "_matcher",
        "_prompt_logprobs",
        "_request",
        "finished",
        "num_tokens",
        "plain",
        "sample",
    )

    def __init__(self, request: Request, sample: int, text: TextDecoder) -> None:
        self._request = request
        self.sample = sample
        self.finished = False
        self.num_tokens = 0
        params = request.sampling
        self._decoder: StreamDecoder | None = None
        if request.detokenize:
            self._decoder = text.stream(params.skip_special_tokens, request.prompt_tokens[-1])
        self._matcher: StopMatcher | None = None
        if params.stop and request.detokenize:
            self._matcher = StopMatcher(params.stop, params.include_stop)
        wanted = params.prompt_logprobs is not None and sample == 0
        self._prompt_logprobs: list[TokenLogprobs] | None = [] if wanted else None
        self.plain = self._decoder.push if self._decoder and not self._matcher and not wanted else None

    def push(self, outcome: Outcome, now: float) -> Event | None:
        """The event that an outcome brings, or None if there is nothing to say.

        A stop string found here ends the sample: the event carries the finish although `outcome.finish` is None, and
        tokens after the one that completed it are dropped.

        Args:
            outcome: of this sample, without an error.
            now: when its step was committed.
        """
        tokens = outcome.tokens
        text, hit = "", None
        if self._decoder is None:
            self.num_tokens += len(tokens)
        elif self._matcher is None:
            self.num_tokens += len(tokens)
            text = self._decoder.push(self._visible(outcome))
            if outcome.finish is not None:
                text += self._decoder.flush()
        else:
            tokens, text, hit = self._match(outcome)
        finish = self._finish(outcome, hit, now)
        logprobs = None if outcome.logprobs is None else outcome.logprobs[: len(tokens)]
        prompt_logprobs = self._take_prompt_logprobs(outcome)
        if not tokens and not text and finish is None and prompt_logprobs is None:
            return None
        return Event(self.sample, tokens, text, logprobs, prompt_logprobs, finish)

    def _visible(self, outcome: Outcome) -> tuple[int, ...]:
        """Tokens that become text: a stop token does only where stops are to be kept."""
        if outcome.stop_token is not None and not self._request.sampling.include_stop:
            return outcome.tokens[:-1]
        return outcome.tokens

    def _match(self, outcome: Outcome) -> tuple[tuple[int, ...], str, str | None]:
        """Tokens kept, text to give out, and the stop string that ended the sample.

        Token by token, so that the one that completes the stop is the last one counted. Stop strings are looked for in
        the text after the first `min_tokens` tokens only.
        """
        assert self._decoder is not None and self._matcher is not None
        parts: list[str] = []
        visible = len(self._visible(outcome))
        for index, token in enumerate(outcome.tokens):
            self.num_tokens += 1
            if index >= visible:
                continue
            piece = self._decoder.push((token,))
            if self.num_tokens <= self._request.sampling.min_tokens:
                parts.append(piece)
                continue
            emit, hit = self._matcher.push(piece)
            parts.append(emit)
            if hit is not None:
                return outcome.tokens[: index + 1], "".join(parts), hit
        if outcome.finish is None:
            return outcome.tokens, "".join(parts), None
        emit, hit = self._matcher.push(self._decoder.flush())
        parts.append(emit)
        if hit is None:
            parts.append(self._matcher.flush())
        return outcome.tokens, "".join(parts), hit

    def _finish(self, outcome: Outcome, hit: str | None, now: float) -> Finish | None:
        if outcome.finish is None and hit is None:
            return None
        self.finished = True
        self.plain = None
        sequence = outcome.sequence
        reason = FinishReason.STOP if hit is not None else outcome.finish
        assert reason is not None
        return Finish(
            reason,
            hit if hit is not None else outcome.stop_token,
            Usage(sequence.num_prompt, self.num_tokens, sequence.num_cached),
            Timing(
                sequence.request.arrival_s,
                sequence.first_scheduled_s,
                sequence.first_token_s,
                now,
                sequence.num_preemptions,
            ),
        )

    def _take_prompt_logprobs(self, outcome: Outcome) -> tuple[TokenLogprobs | None, ...] | None:
        """All of the prompt's with the first output token; None before and after.

        They come in prompt order, a chunk a step; a sequence that lost its pages starts its prompt again, so the
        last ones count.
        """
        found = self._prompt_logprobs
        if found is None:
            return None
        if outcome.prompt_logprobs is not None:
            found.extend(outcome.prompt_logprobs)
        wanted = outcome.sequence.num_prompt - 1
        del found[: max(0, len(found) - wanted)]
        if not outcome.tokens or len(found) < wanted:
            return None
        self._prompt_logprobs = None
        return (None, *found)
