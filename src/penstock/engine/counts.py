"""Running totals of one engine and the ends that they count.

Knows nothing about how a step is made. Invariant: totals only grow.
"""

from __future__ import annotations

from penstock.core import (
    DeadlineExceeded,
    Event,
    FinishReason,
    InvalidLogits,
    PenstockError,
    Request,
    ServerError,
)


class Counts:
    """Totals since the start, and when the engine last got on."""

    __slots__ = (
        "dead",
        "last_progress_s",
        "num_cancelled",
        "num_errors",
        "num_finished",
        "output_tokens",
        "prompt_tokens",
        "steps",
    )

    def __init__(self) -> None:
        self.steps = 0
        self.num_finished = 0
        self.num_cancelled = 0
        self.num_errors = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.last_progress_s = 0.0
        self.dead = False

    def ended(self, request: Request, event: Event) -> None:
        """Books the end of a request by its last event."""
        if event.error is not None:
            self.num_errors += 1
            return
        assert event.finish is not None
        if event.finish.reason is FinishReason.CANCELLED:
            self.num_cancelled += 1
            return
        self.num_finished += 1
        self.prompt_tokens += len(request.prompt_tokens)


def row_error(code: str) -> PenstockError:
    """The error that a sequence's short code stands for."""
    if code == "invalid_logits":
        return InvalidLogits("the model gave no finite logits for this request.", should_retry=False)
    if code == "deadline_exceeded":
        return DeadlineExceeded("the request's deadline passed.", hint="give it more time.")
    return ServerError("the request failed in the forward pass.", code=code)
