"""Makes one step: a row for every sequence that decodes, then prefill by rank while the predicted time allows.

Knows nothing about results, cancellation or deadlines. Invariant: a row starts where the sequence's rows before it
ended, and lies within the pages that the backend was told of.
"""

from __future__ import annotations

from penstock.core import (
    NO_OUTPUT,
    SAMPLE,
    EngineConfig,
    FutureToken,
    Opened,
    Output,
    OutputKind,
    PageCopy,
    Row,
    StepPlan,
)
from penstock.kv import KvManager, Match
from penstock.sched import policy
from penstock.sched.admission import OutputLengths
from penstock.sched.cost import StepCost, StepFeatures
from penstock.sched.job import Job, Rank
from penstock.sched.queue import WaitingQueue
from penstock.sched.roster import Roster


class _Draft:
    """A step in the making."""

    __slots__ = (
        "copies",
        "decode_rows",
        "forced",
        "kv_tokens",
        "left",
        "opened",
        "prefill_tokens",
        "rows",
        "spare_s",
        "step",
    )

    def __init__(self, step: int, left: int) -> None:
        self.step = step
        self.left = left
        self.opened: list[Opened] = []
        self.rows: list[Row] = []
        self.copies: list[PageCopy] = []
        self.prefill_tokens = 0
        self.decode_rows = 0
        self.kv_tokens = 0
        self.forced = True  # the first prefill row gets a token whatever it costs
        self.spare_s = 0.0

    @property
    def features(self) -> StepFeatures:
        return StepFeatures(self.prefill_tokens, self.decode_rows, self.kv_tokens)


class Planner:
    """Plans over one queue and one roster.

    Args:
        config: budgets.
        kv: page tables.
        queue: who waits.
        roster: who runs.
        cost: the fitted step time.
        lengths: finished outputs.
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
        self._families: dict[str, list[Job]] = {}
        self._no_pages: tuple[tuple[int, ...], ...] = ((),) * kv.num_groups

    def plan(self, step: int, now: float, families: dict[str, list[Job]]) -> tuple[StepPlan, StepFeatures] | None:
        """The next step and what it costs; None if nothing can be computed before a commit.

        Args:
            step: its number.
            now: the injected clock.
            families: live samples by request id.
        """
        self._families = families
        self._roster.relieve()
        self._unpark()
        while True:
            draft = _Draft(step, self._config.max_step_tokens)
            prefills = self._decode(draft)
            self._prefill(draft, prefills, now)
            if draft.rows:
                break
            if not self._roster.relieve():
                return None
        plan = StepPlan(step, tuple(draft.opened), tuple(draft.rows), tuple(draft.copies), self._roster.take_released())
        return plan, draft.features

    # Decode.

    def _decode(self, draft: _Draft) -> list[Job]:
        """Adds a row for every job with one token to compute; returns those with more."""
        prefills: list[Job] = []
        served: list[Job] = []
        clipped = False
        reserve = 1 if len(self._queue) and self._config.max_step_tokens > 1 else 0
        for job in self._roster.jobs.values():
            sequence = job.sequence
            pending = len(sequence.tokens) - sequence.num_scheduled
            if pending > 1:
                if not job.doomed:
                    prefills.append(job)
                    reserve = 1 if self._config.max_step_tokens > 1 else 0
                continue
            if job.doomed or job.short or (pending < 1 and not self._can_run_ahead(job, pending)):
                continue
            if draft.left <= reserve:
                clipped = True
                continue
            if self._decode_row(draft, job, pending, reserve):
                served.append(job)
        if clipped:
            self._roster.rotate(served)
        return prefills

    @staticmethod
    def _can_run_ahead(job: Job, pending: int) -> bool:
        """Whether a row may be planned on a token that is being sampled."""
        if pending < 0 or job.sampled_step < 0 or job.waits_alone:
            return False
        return len(job.sequence.tokens) + 1 < job.limit

    def _decode_row(self, draft: _Draft, job: Job, pending: int, reserve: int) -> bool:
        sequence = job.sequence
        start = sequence.num_scheduled
        tokens: tuple[int, ...] | FutureToken
        num_drafts = 0
        if pending == 1:
            tokens = (sequence.tokens[start],)
            if sequence.drafts:
                num_drafts = min(len(sequence.drafts), job.limit - start - 2, draft.left - reserve - 1)
                tokens += sequence.drafts[: max(0, num_drafts)]
                num_drafts = len(tokens) - 1
                sequence.drafts = ()
        else:
            tokens = FutureToken(sequence.slot, job.sampled_step)
        end = start + 1 + num_drafts
        if (end - 1) // self._config.page_tokens >= len(sequence.tables[0]) and self._kv.grow(sequence, end) is None:
            self._roster.mark_short(job)
            return False
        new_pages = self._new_pages(job)
        draft.rows.append(Row(sequence.slot, start, tokens, new_pages, num_drafts, self._output(job, start, end, True)))
        sequence.num_scheduled = end
        job.steps += 1
        job.sampled_step = draft.step
        draft.left -= end - start
        draft.decode_rows += 1
        draft.kv_tokens += end
        return True

    def _new_pages(self, job: Job) -> tuple[tuple[int, ...], ...]:
        """Pages that the backend has not been told of."""
        tables, sent = job.sequence.tables, job.sent_pages
        if len(tables[0]) == sent:
            return self._no_pages
        job.sent_pages = len(tables[0])
        return tuple([tuple(table[sent:]) for table in tables])

    @staticmethod
    def _output(job: Job, start: int, end: int, sample: bool) -> Output:
        """What the row [start, end) gives; prompt logprobs come with the first sample only."""
        sequence = job.sequence
        wanted = sequence.request.sampling.prompt_logprobs
        if wanted is not None and sequence.sample == 0:
            count = min(end + 1, sequence.num_prompt) - start - 1
            if count > 0:
                return Output(OutputKind.PROMPT_LOGPROBS, start + 1, count, wanted, sample)
        return SAMPLE if sample else NO_OUTPUT

    # Prefill.

    def _prefill(self, draft: _Draft, prefills: list[Job], now: float) -> None:
        """Adds prefill by rank while tokens and time are left; the first in rank gets one token at least."""
        base_s = self._cost.predict(draft.features)
        draft.spare_s = policy.step_budget_s(base_s, self._config.step_target_s, self._config.step_slack) - base_s
        ranked = sorted(((self._running_rank(job), job) for job in prefills if not job.short), reverse=True)
        closed = False
        while draft.left > 0 and (draft.forced or draft.spare_s > 0):
            waiting = self._queue.first() if self._roster.has_slot and not closed else None
            if waiting is not None and (not ranked or waiting.rank < ranked[-1][0]):
                if self._admit(draft, waiting, now):
                    self._chunk(draft, waiting)
                elif waiting.blocked_on is None and waiting.leader is None:
                    closed = True  # nobody passes the first in line where memory or time is what it lacks
            elif ranked:
                self._chunk(draft, ranked.pop()[1])
            else:
                return

    def _running_rank(self, job: Job) -> Rank:
        sequence = job.sequence
        remaining = len(sequence.tokens) - sequence.num_scheduled
        own = policy.rank(
            sequence.request.priority, remaining, job.joined_s, self._config.age_tokens_per_s, sequence.id
        )
        # Two jobs never share a rank: an inherited one keeps the heir's place right before the waiter's.
        return own if job.boost is None else min(own, (*job.boost[:2], min(job.boost[2], sequence.id)))

    def _chunk(self, draft: _Draft, job: Job) -> None:
        """Adds as many tokens of the job as time, ceiling and pages allow."""
        sequence, cost = job.sequence, self._cost.coefficients
        start = sequence.num_scheduled
        most = min(len(sequence.tokens) - start, draft.left)
        count = policy.chunk_tokens(start, most, draft.spare_s, cost[1], cost[3])
        count = min(max(count, int(draft.forced)), self._kv.room(sequence) - start)
        if count < 1:
            if most and self._kv.room(sequence) <= start:
                self._roster.mark_short(job)
            else:
                draft.spare_s = 0.0
            return
        grown = self._kv.grow(sequence, start + count)
        assert grown is not None, "room and grow disagree"
        end = start + count
        sample = end == len(sequence.tokens)
        draft.rows.append(
            Row(
                sequence.slot,
                start,
                tuple(sequence.tokens[start:end]),
                self._new_pages(job),
                0,
                self._output(job, start, end, sample),
            )
        )
        sequence.num_scheduled = end
        job.steps += 1
        if sample:
            job.sampled_step = draft.step
        read = policy.kv_read(start, count)
        draft.left -= count
        draft.prefill_tokens += count
        draft.kv_tokens += read
        draft.spare_s -= cost[1] * count + cost[3] * read
        draft.forced = False

    # Admission.

    def _admit(self, draft: _Draft, job: Job, now: float) -> bool:
        """Opens the first in line if memory and time allow, or parks it where others compute what it needs."""
        source, leader = self._relatives(job)
        if leader is not None:
            job.leader = leader
            self._park(job, leader)
            return False
        match = None
        wanted = job.request.sampling.prompt_logprobs
        if source is None and not (wanted is not None and job.sequence.sample == 0):
            match = self._kv.match(job.sequence, job.keys)
            if match.pending is not None:
                job.blocked_on = match.pending
                self._park(job, self._roster.jobs.get(match.pending.writer))
                return False
        reserved = self._reserve(job)
        taken = self._pages_taken(job, reserved, match, source is not None)
        if not policy.covers(self._kv.spare(), taken) or not self._in_time(draft, job, match, source):
            return False
        if source is None or not self._fork(job, source):
            self._kv.open(job.sequence, job.keys, match)
        self._enter(draft, job, reserved, now)
        return True

    def _in_time(self, draft: _Draft, job: Job, match: Match | None, source: Job | None) -> bool:
        """Whether one token of the job fits into the step."""
        if draft.forced:
            return True
        start = len(match.entries) * self._config.page_tokens if match is not None else 0
        if source is not None:
            start = job.sequence.num_prompt - 1
        cost = self._cost.coefficients
        return policy.chunk_tokens(start, 1, draft.spare_s, cost[1], cost[3]) == 1

    def _relatives(self, job: Job) -> tuple[Job | None, Job | None]:
        """A sample of the same request to fork from, or else one whose prompt is under way."""
        sequence = job.sequence
        family = self._families[sequence.request.id]
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
        if worker is not None and (worker.boost is None or job.rank < worker.boost):
            worker.boost = job.rank

    def _unpark(self) -> None:
        """Puts those back in line whose wait is over."""
        for job in self._queue.parked():
            if job.blocked_on is not None:
                over = not job.blocked_on.pending
            else:
                leader = job.leader
                assert leader is not None, "a parked job waits for nothing"
                done = leader.sequence.num_computed >= job.sequence.num_prompt - 1
                over = done or leader.sequence.id not in self._roster.jobs
            if over:
                job.blocked_on = job.leader = None
                self._queue.unpark(job)

    def _reserve(self, job: Job) -> int:
        """Tokens to set memory aside for: prompt and predicted output, or all of it after too many preemptions."""
        sequence = job.sequence
        if sequence.num_preemptions >= self._config.max_preemptions:
            return job.limit
        expected = max(sequence.num_prompt + self._lengths.predicted, len(sequence.tokens) + self._config.page_tokens)
        return min(job.limit, expected)

    def _pages_taken(self, job: Job, reserved: int, match: Match | None, fork: bool) -> list[int]:
        """Pages that leave the spare ones when the job enters, by group."""
        need = self._kv.need(reserved)
        if fork:
            shared = self._kv.shared_by_fork(job.sequence)
            return [max(1, pages - held) for pages, held in zip(need, shared, strict=True)]
        if match is None:
            return need
        return [
            max(0, pages - held) + unheld
            for pages, held, unheld in zip(need, match.num_held, match.num_unheld, strict=True)
        ]

    def _fork(self, job: Job, source: Job) -> bool:
        copies = self._kv.fork(source.sequence, job.sequence, job.keys)
        if copies is None:
            return False
        job.copies = copies
        return True

    def _enter(self, draft: _Draft, job: Job, reserved: int, now: float) -> None:
        """Gives the opened job a slot and introduces it to the backend."""
        sequence, request = job.sequence, job.request
        self._queue.remove(job)
        self._roster.enter(job, reserved)
        draft.copies.extend(job.copies)
        job.copies = ()
        if sequence.first_scheduled_s < 0:
            sequence.first_scheduled_s = now
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
