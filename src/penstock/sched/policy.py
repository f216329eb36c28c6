"""Who goes first and how much fits: pure functions of plain numbers.

Knows nothing about queues, pages or the clock. Invariant: no state; equal arguments give equal answers.

The order of prefill is shortest remaining first with linear ageing. A request that joined at t with r uncached tokens
left ranks r - a·(now - t), where a is `age_tokens_per_s`; as every rank falls at the same speed, the order of two does
not depend on now, and r + a·t will do.

**Starvation bound.** A request that joined at t with r tokens left is passed only by requests of its priority that
joined before t + r/a: one that joins later ranks at least a·(t + r/a) = r + a·t, and ties go to the older. r is at
most `max_model_tokens`, so nothing that joins more than max_model_tokens/a seconds later gets a token of prefill
first. The only other wait is for a page that somebody else is computing, who then inherits the waiter's rank. Every
plan with prefill to do gives the first in rank at least one token.

**A step that nobody decodes in** may take STRETCH times the target for the prompt that is first in rank, and only for
it. The target bounds what prefill adds to the wait between two tokens of others; where there are none, a short step
buys nothing and reads all weights once more. What it costs: a newcomer, a cancellation and a deadline are seen at the
next plan, STRETCH - 1 targets later at most. The prompts behind the first join only while the ordinary budget lasts,
so none of them holds up the first token of the one before it. Before any step has been measured there is no stretch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from penstock.sched.job import Job, Rank

STRETCH = 3.0


def rank(priority: int, remaining_tokens: int, joined_s: float, age_tokens_per_s: float, id: int) -> Rank:
    """The place in line: lower goes first, whatever the time is."""
    return (priority, remaining_tokens + age_tokens_per_s * joined_s, id)


def step_budget_s(decode_only_s: float, target_s: float, slack: float) -> float:
    """Seconds that a step with prefill may take."""
    return max(target_s, slack * decode_only_s)


def stretch_s(target_s: float) -> float:
    """Seconds beyond the ordinary budget that the first in rank may take where nobody decodes."""
    return (STRETCH - 1.0) * target_s


def chunk_tokens(start: int, most: int, spare_s: float, token_s: float, read_s: float) -> int:
    """Prefill tokens that fit into the spare time, 0 … most.

    A token at position p reads p + 1 tokens of KV, so that n tokens from `start` cost
    n·token_s + (n·start + n·(n + 1)/2)·read_s.

    Args:
        start: first position.
        most: upper bound.
        spare_s: time left in the step.
        token_s: seconds a token.
        read_s: seconds a token of KV read.
    """
    if spare_s <= 0:
        return 0
    half = read_s / 2
    linear = token_s + read_s * start + half
    if half * most * most + linear * most <= spare_s:
        return most
    # The positive root of half·n² + linear·n = spare_s, in the form that does not cancel when half is small.
    root = 2 * spare_s / (linear + math.sqrt(linear * linear + 4 * half * spare_s))
    return min(most, int(root))


def kv_read(start: int, tokens: int) -> int:
    """Tokens of KV that a row reads."""
    return tokens * start + tokens * (tokens + 1) // 2


def choose_victim(running: Iterable[Job], requester: Job, max_preemptions: int) -> Job | None:
    """The newest running job that may lose its pages to the requester.

    Jobs that were preempted `max_preemptions` times are never chosen. An ordinary requester takes from newer jobs
    only, so the oldest always gets on; one that is fully reserved takes from any ordinary job.
    """
    protected = requester.sequence.num_preemptions >= max_preemptions
    best: Job | None = None
    for job in running:
        if job is requester or job.doomed or job.ended or job.sequence.num_preemptions >= max_preemptions:
            continue
        if (protected or job.order > requester.order) and (best is None or job.order > best.order):
            best = job
    return best


def covers(available: Sequence[float], need: Sequence[float]) -> bool:
    """Whether every group has what is needed."""
    return all(have >= want for have, want in zip(available, need, strict=True))
