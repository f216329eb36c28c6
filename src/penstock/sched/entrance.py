"""Lets jobs in: who is first in line gets tables and a slot, waits for what others compute, or stays in line.

Knows nothing about rows, ranks or results. Invariant: a job that enters has the pages for what it is expected to need
set aside; one that stays in line costs a plan no more than a comparison.
"""

from __future__ import annotations

from penstock.core import EngineConfig, Opened
from penstock.kv import KvManager, Match
from penstock.sched import policy
from penstock.sched.admission import OutputLengths
from penstock.sched.cost import StepCost
from penstock.sched.draft import Draft
from penstock.sched.job import Job, Refusal
from penstock.sched.queue import WaitingQueue
from penstock.sched.roster import Roster


class Entrance:
    """The way from one queue to one roster.

    Args:
        config: page_tokens and max_preemptions are read.
        kv: page tables.
        queue: who waits.
        roster: who runs.
        cost: the fitted step time.
        lengths: finished outputs.

    Attributes:
        families: live samples by request id.
    """

    def __init__(
        self,
        config: EngineConfig,
        kv: KvManager,
        queue: WaitingQueue,
        roster: Roster,
        cost: StepCost,
        lengths: OutputLengths,
    ) -> None:
        self._config = config
        self._kv = kv
        self._queue = queue
        self._roster = roster
        self._cost = cost
        self._lengths = lengths
        self.families: dict[str, list[Job]] = {}

    def admit(self, draft: Draft, job: Job, now: float) -> bool:
        """Opens the first in line if memory and time allow, or parks it where others compute what it needs."""
        source, leader = self._relatives(job)
        if leader is not None:
            job.leader = leader
            self._park(job, leader)
            return False
        match = None
        wanted = job.request.sampling.prompt_logprobs
        if source is None and not (wanted is not None and job.sequence.sample == 0):
            if self._hopeless(draft, job):
                return False
            match = self._kv.match(job.sequence, job.keys, job.packed)
            if match.pending is not None:
                job.blocked_on = match.pending
                self._park(job, self._roster.jobs.get(match.pending.writer))
                return False
        reserved = self._reserve(job)
        taken = self._pages_taken(job, reserved, match, source is not None)
        start = len(match.entries) * self._config.page_tokens if match is not None else 0
        if source is not None:
            start = job.sequence.num_prompt - 1
        if not policy.covers(self._kv.spare(), taken) or not self._in_time(draft, start):
            if match is not None:
                shared = [held - unheld for held, unheld in zip(match.num_held, match.num_unheld, strict=True)]
                job.refusal = Refusal(self._kv.gains, tuple(shared), start)
            return False
        forked = source is not None and self._fork(job, source)
        if not forked:
            self._kv.open(job.sequence, job.keys, match)
        self._enter(draft, job, reserved, now, forked)
        return True

    def _hopeless(self, draft: Draft, job: Job) -> bool:
        """Whether a job that was refused before would be refused again, told without another walk through the index.

        Every gain since the refusal can have put one more page of its prompt into somebody's hands; what is not in
        anybody's hands must come from the spare pages.
        """
        refusal = job.refusal
        if refusal is None:
            return False
        gained = self._kv.gains - refusal.gains
        need = self._kv.need(self._reserve(job))
        least = [pages - shared - gained for pages, shared in zip(need, refusal.shared, strict=True)]
        return not policy.covers(self._kv.spare(), least) or not self._in_time(draft, refusal.start)

    def _in_time(self, draft: Draft, start: int) -> bool:
        """Whether one token at this position fits into the step."""
        cost = self._cost.coefficients
        return draft.forced or policy.chunk_tokens(start, 1, draft.spare_s, cost[1], cost[3]) == 1

    def _relatives(self, job: Job) -> tuple[Job | None, Job | None]:
        """A sample of the same request to fork from, or else one whose prompt is under way."""
        sequence = job.sequence
        family = self.families[sequence.request.id]
        if len(family) == 1 or sequence.num_output:
            return None, None
        leader = None
        for other in family:
            if other is job or other.sequence.id not in self._roster.jobs or other.doomed:
                continue
            if other.sequence.num_computed >= sequence.num_prompt - 1:
                if self._kv.can_fork(other.sequence, sequence):
                    return other, None
            elif leader is None:
                leader = other
        return None, leader

    def _park(self, job: Job, worker: Job | None) -> None:
        """Sets the job aside; who works for it goes no later than it would."""
        self._queue.park(job)
        _lend(job, worker)

    def _worker(self, job: Job) -> Job | None:
        """Who computes what the parked job waits for."""
        if job.blocked_on is None:
            return job.leader
        return self._roster.jobs.get(job.blocked_on.writer)

    def unpark(self) -> None:
        """Puts those back in line whose wait is over; looks at one of all that wait for the same."""
        ended = [first for first in self._queue.first_parked() if self._is_over(first)]
        if not ended:
            return
        for first in ended:
            worker = self._worker(first)
            if worker is not None:
                worker.boost = None
            for job in self._queue.parked_with(first):
                self._queue.unpark(job)
                job.blocked_on = job.leader = None
        for job in self._queue.parked():
            _lend(job, self._worker(job))

    def _is_over(self, job: Job) -> bool:
        """Whether what the parked job waits for is there, or will not come."""
        if job.blocked_on is not None:
            return not job.blocked_on.pending
        leader = job.leader
        assert leader is not None, "a parked job waits for nothing"
        done = leader.sequence.num_computed >= job.sequence.num_prompt - 1
        return done or leader.sequence.id not in self._roster.jobs

    def _reserve(self, job: Job) -> int:
        """Tokens to set memory aside for: prompt and predicted output, or all of it after too many preemptions."""
        sequence = job.sequence
        if sequence.num_preemptions >= self._config.max_preemptions:
            return job.limit
        expected = max(sequence.num_prompt + self._lengths.predicted, len(sequence.tokens) + self._config.page_tokens)
        return min(job.limit, expected)

    def _pages_taken(self, job: Job, reserved: int, match: Match | None, fork: bool) -> list[int]:
        """Pages that leave the spare ones when the job enters, by group."""
        if fork:
            full = (job.sequence.num_prompt - 1) // self._config.page_tokens
            return [max(1, pages) for pages in self._kv.takes(reserved, full, (0,) * self._kv.num_groups)]
        if match is None:
            return self._kv.need(reserved)
        return self._kv.takes(reserved, len(match.entries), match.num_unheld)

    def _fork(self, job: Job, source: Job) -> bool:
        copies = self._kv.fork(source.sequence, job.sequence, job.keys)
        if copies is None:
            return False
        job.copies = copies
        return True

    def _enter(self, draft: Draft, job: Job, reserved: int, now: float, forked: bool) -> None:
        """Gives the opened job a slot and introduces it to the backend."""
        sequence, request = job.sequence, job.request
        self._queue.remove(job)
        self._roster.enter(job, reserved)
        draft.copies.extend(job.copies)
        job.copies = ()
        if sequence.first_scheduled_s < 0:
            sequence.first_scheduled_s = now
            if not forked:  # what a sample takes over from another of its request did not come from the cache
                sequence.num_cached = sequence.num_computed
                self._kv.queries_tokens += sequence.num_prompt
                self._kv.hits_tokens += sequence.num_computed
        assert request.sampling.seed is not None, "the seed is resolved at the door"
        draft.opened.append(
            Opened(
                sequence.slot,
                sequence.id,
                sequence.sample,
                request.sampling.seed,
                tuple(sequence.tokens),
                sequence.num_prompt,
                request.sampling,
                () if request.sampling.ignore_eos else request.eos_token_ids,
                request.adapter,
                request.grammar,
            )
        )


def _lend(job: Job, worker: Job | None) -> None:
    """Lends the rank of a job that waits to the one that works for it."""
    if worker is not None and (worker.boost is None or job.rank < worker.boost):
        worker.boost = job.rank
