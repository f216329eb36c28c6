"""Running totals of one engine, the ends that they count, and the snapshot made of them.

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
    Snapshot,
)
from penstock.sched import Scheduler


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


def measure(counts: Counts, scheduler: Scheduler, now: float, *, draining: bool) -> Snapshot:
    """The engine's state as one immutable object."""
    kv = scheduler.kv
    total, free, cached = kv.pages_total, kv.pages_free, kv.pages_cached
    return Snapshot(
        now_s=now,
        steps=counts.steps,
        last_progress_s=counts.last_progress_s,
        num_running=scheduler.num_running,
        num_waiting=scheduler.num_waiting,
        oldest_waiting_s=scheduler.oldest_waiting_s(now),
        pages_total=total,
        pages_free=free,
        pages_cached=cached,
        pages_held=total - free - cached,
        prefix_queries_tokens=kv.queries_tokens,
        prefix_hits_tokens=kv.hits_tokens,
        num_preemptions=scheduler.num_preemptions,
        num_finished=counts.num_finished,
        num_cancelled=counts.num_cancelled,
        num_errors=counts.num_errors,
        prompt_tokens=counts.prompt_tokens,
        output_tokens=counts.output_tokens,
        draining=draining,
        dead=counts.dead,
    )


def row_error(code: str) -> PenstockError:
    """The error that a sequence's short code stands for."""
    if code == "invalid_logits":
        return InvalidLogits("the model gave no finite logits for this request.", should_retry=False)
    if code == "deadline_exceeded":
        return DeadlineExceeded("the request's deadline passed.", hint="give it more time.")
    return ServerError("the request failed in the forward pass.", code=code)
