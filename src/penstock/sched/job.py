"""What the scheduler keeps beside a `Sequence`: its place in line, its limits and its steps under way.

Knows nothing about plans or pages. Invariant: a job is in the queue, running, or ended, never two of them.
"""

from __future__ import annotations

from typing import NamedTuple

from penstock.core import PageCopy, Request, Sequence
from penstock.kv import PendingPage, PromptPages


class Refusal(NamedTuple):
    """What a walk through the prefix index found for a job that was not let in; spares the next plans the walk.

    Attributes:
        gains: the KV manager's count of gains then.
        shared: pages of the match that others held, by group: at most `gains` since then have joined them.
        start: position that the job would have started at.
    """

    gains: int
    shared: tuple[int, ...]
    start: int


class Job:
    """One sequence in the scheduler.

    Attributes:
        sequence: the public state.
        keys: page hashes of its tokens; the KV manager extends them.
        packed: the prompt's whole pages, packed, to be compared on a hit.
        limit: tokens at which the sample ends, prompt included.
        stops: ids that end it.
        joined_s: when it came; kept over preemptions.
        rank: place in line while it waits; see policy.rank.
        boost: the best rank of those who wait for pages that it computes.
        blocked_on: pending page that it waits for.
        leader: sample of the same request whose prompt it waits for.
        refusal: why it was not let in when it was first in line, or None.
        order: counts admissions; higher is newer.
        steps: uncommitted steps that name it.
        covered: below this position a decode row is nothing but its token: the pages are there, the backend knows
            them, and no draft, mark or prompt logprob asks for more. 0 while any of that is not so.
        sampled_step: the uncommitted step that samples its next token, -1 without one.
        sent_pages: entries of its tables that the backend was told.
        opened: whether the backend knows its slot.
        short: it could not get a page and sits out until one is made free.
        doomed: it is to lose its pages at the commit of its last step.
        ended: it has been reported as finished.
        copies: page copies to go with its first row.
        waits_alone: its next row needs the result of the one before (grammar, drafts).
    """

    __slots__ = (
        "blocked_on",
        "boost",
        "copies",
        "covered",
        "doomed",
        "ended",
        "joined_s",
        "keys",
        "leader",
        "limit",
        "opened",
        "order",
        "packed",
        "rank",
        "refusal",
        "sampled_step",
        "sent_pages",
        "sequence",
        "short",
        "steps",
        "stops",
        "waits_alone",
    )

    def __init__(self, sequence: Sequence, pages: PromptPages, limit: int, joined_s: float) -> None:
        self.sequence = sequence
        self.keys = list(pages.keys)
        self.packed = pages.packed
        self.limit = limit
        self.joined_s = joined_s
        sampling = sequence.request.sampling
        eos = () if sampling.ignore_eos else sequence.request.eos_token_ids
        self.stops = frozenset(eos) | frozenset(sampling.stop_token_ids)
        # A grammar or drafts need the result of the step before: such a sequence sits out one plan.
        self.waits_alone = sequence.request.grammar is not None
        self.rank: Rank = (0, 0.0, 0)
        self.blocked_on: PendingPage | None = None
        self.leader: Job | None = None
        self.reset()
        self.ended = False

    def reset(self) -> None:
        """Forgets what belongs to one stay among the running."""
        self.boost: Rank | None = None
        self.refusal: Refusal | None = None
        self.covered = 0
        self.order = -1
        self.steps = 0
        self.sampled_step = -1
        self.sent_pages = 0
        self.opened = False
        self.short = False
        self.doomed = False
        self.copies: tuple[PageCopy, ...] = ()

    @property
    def blocker(self) -> object:
        """What it waits for while it is parked; jobs with equal blockers wait for the same thing."""
        return self.leader if self.blocked_on is None else self.blocked_on.key

    @property
    def request(self) -> Request:
        """What was asked."""
        return self.sequence.request


# (priority, tokens left + ageing, id): the lowest goes first.
Rank = tuple[int, float, int]
