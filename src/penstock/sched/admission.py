"""What may enter: checks at the door, and how much memory a request is expected to need.

Knows nothing about ranks or steps. Invariant: what passes the door fits when it is alone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from penstock.core import ContextLengthExceeded, EngineConfig, InvalidRequest, QueueFull, Request
from penstock.core.limits import MAX_SAMPLES

OUTPUTS_KEPT = 512
QUANTILE = 0.8
FIRST_GUESS_TOKENS = 256
MIN_RETRY_S = 0.1
MAX_RETRY_S = 120.0  # clients give up where they are asked to wait longer


class OutputLengths:
    """The running 80th percentile of finished outputs, over the last 512 of them."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []

    def add(self, num_tokens: int) -> None:
        """Books one finished output."""
        if len(self._recent) == OUTPUTS_KEPT:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(num_tokens)
        insort(self._sorted, num_tokens)

    @property
    def predicted(self) -> int:
        """Tokens that an output is expected to have."""
        if not self._sorted:
            return FIRST_GUESS_TOKENS
        return max(1, self._sorted[min(len(self._sorted) - 1, int(QUANTILE * len(self._sorted)))])


def check_fits(request: Request, max_tokens: int, config: EngineConfig) -> int:
    """Tokens at which each sample of the request ends, prompt included.

    Args:
        request: what is asked.
        max_tokens: the longest sequence that the model and the KV memory allow.
        config: for max_waiting.

    Raises:
        InvalidRequest: no prompt, too many samples.
        ContextLengthExceeded: prompt, or prompt plus max_tokens, longer than max_tokens.
    """
    prompt, asked = request.prompt_tokens, request.sampling.max_tokens
    if not prompt:
        raise InvalidRequest("the prompt has 0 tokens; it needs at least 1.", param="prompt", hint="send some text.")
    if not 1 <= request.sampling.n <= min(MAX_SAMPLES, config.max_waiting):
        most = min(MAX_SAMPLES, config.max_waiting)
        raise InvalidRequest(f"n is {request.sampling.n}; it must be 1 to {most}.", param="n")
    if len(prompt) + 1 > max_tokens:
        raise ContextLengthExceeded(
            f"the prompt has {len(prompt)} tokens; with room for one token of output at most {max_tokens} fit.",
            param="prompt",
            hint="shorten the prompt.",
        )
    if asked is not None and len(prompt) + asked > max_tokens:
        raise ContextLengthExceeded(
            f"the prompt has {len(prompt)} tokens and max_tokens is {asked}, together {len(prompt) + asked}; "
            f"at most {max_tokens} fit.",
            param="max_tokens",
            hint=f"lower max_tokens to {max_tokens - len(prompt)} or shorten the prompt.",
        )
    return max_tokens if asked is None else len(prompt) + asked


def check_ids(request: Request, config: EngineConfig) -> None:
    """Passes if every id of the prompt is in the vocabulary; reads the whole prompt.

    Raises:
        InvalidRequest: with the id.
    """
    low, high = min(request.prompt_tokens), max(request.prompt_tokens)
    if low < 0 or high >= config.vocab_size:
        bad = low if low < 0 else high
        raise InvalidRequest(
            f"token id {bad} is outside the vocabulary; ids are 0 to {config.vocab_size - 1}.",
            param="prompt",
            hint="use this model's tokenizer.",
        )


class Line(NamedTuple):
    """What is in line and how fast it moves.

    Attributes:
        sequences: how many wait.
        tokens: prompt tokens of theirs.
        output_tokens: what each is expected to give.
        coefficients: seconds a step, a prefill token, a decode row and a token of KV read.
    """

    sequences: int
    tokens: int
    output_tokens: int
    coefficients: Sequence[float]

    def drain_s(self, max_running: int) -> float:
        """Seconds until all of them have been let in: their prefill, and the outputs of those who hold the slots."""
        step_s, token_s, row_s, _ = self.coefficients
        rounds = self.sequences / max_running
        return self.tokens * token_s + rounds * self.output_tokens * (step_s + max_running * row_s)


def check_queue(request: Request, line: Line, config: EngineConfig) -> None:
    """Passes if the queue has room for the request.

    Raises:
        QueueFull: with the seconds that the line is expected to take, by the fitted cost of a step.
    """
    n = request.sampling.n
    tokens = n * len(request.prompt_tokens)
    retry_after_s = min(MAX_RETRY_S, max(MIN_RETRY_S, line.drain_s(config.max_running)))
    if line.sequences + n > config.max_waiting:
        raise QueueFull(
            f"{line.sequences} sequences wait and the request adds {n}; at most {config.max_waiting} may wait.",
            hint="try again later.",
            retry_after_s=retry_after_s,
        )
    # A prompt longer than the whole bound still gets its turn when nobody else waits.
    if line.sequences and line.tokens + tokens > config.max_waiting_tokens:
        raise QueueFull(
            f"{line.tokens} prompt tokens wait and the request adds {tokens}; "
            f"at most {config.max_waiting_tokens} may wait.",
            hint="try again later.",
            retry_after_s=retry_after_s,
        )
