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
    Output,
    OutputKind,
    Row,
    StepPlan,
)
from penstock.kv import KvManager
from penstock.sched import policy
from penstock.sched.admission import OutputLengths
from penstock.sched.cost import StepCost, StepFeatures
from penstock.sched.draft import Draft
from penstock.sched.entrance import Entrance
from penstock.sched.job import Job, Rank
from penstock.sched.queue import WaitingQueue
from penstock.sched.roster import Roster

new_tuple = tuple.__new__


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
        self._entrance = Entrance(config, kv, queue, roster, cost, lengths)
        self._no_pages: tuple[tuple[int, ...], ...] = ((),) * kv.num_groups

    def plan(self, step: int, now: float, families: dict[str, list[Job]]) -> tuple[StepPlan, StepFeatures] | None:
        """The next step and what it costs; None if nothing can be computed before a commit.

        Args:
            step: its number.
            now: the injected clock.
            families: live samples by request id.
        """
        self._entrance.families = families
        self._roster.relieve()
        self._entrance.unpark()
        while True:
            draft = Draft(step, self._config.max_step_tokens)
            prefills = self._decode(draft)
            self._prefill(draft, prefills, now)
            if draft.rows:
                break
            if not self._roster.relieve():
                return None
        plan = StepPlan(step, tuple(draft.opened), tuple(draft.rows), tuple(draft.copies), self._roster.take_released())
        return plan, draft.features

    # Decode.

    def _decode(self, draft: Draft) -> list[Job]:
        """Adds a row for every job with one token to compute; returns those with more."""
        prefills: list[Job] = []
        clipped = False
        share = 1 if self._config.max_step_tokens > 1 else 0
        reserve = share if len(self._queue) else 0
        step, no_pages, add_row = draft.step, self._no_pages, draft.rows.append
        left, plain, read = draft.left, 0, 0  # of the draft, which learns them before anybody else looks
        for job in self._roster.jobs.values():
            sequence = job.sequence
            start, known = sequence.num_scheduled, sequence.tokens
            # One known token within the pages of before: the row of nearly every sequence in nearly every step. Without
            # the named tuple's own constructor, which takes as long as all the rest.
            if start < job.covered and start + 1 == len(known) and left > reserve:
                add_row(new_tuple(Row, (sequence.slot, start, (known[start],), no_pages, 0, SAMPLE)))
                sequence.num_scheduled = start = start + 1
                job.steps += 1
                job.sampled_step = step
                left -= 1
                plain += 1
                read += start
                continue
            if len(known) - start > 1:
                if not job.doomed:
                    prefills.append(job)
                    reserve = share
                continue
            draft.left = left
            clipped |= self._other_row(draft, job, reserve)
            left = draft.left
        draft.left = left
        draft.decode_rows += plain
        draft.kv_tokens += read
        if clipped:
            self._roster.rotate(draft.rows)
        return prefills

    def _other_row(self, draft: Draft, job: Job, reserve: int) -> bool:
        """Adds the row of a job that decodes, if it can have one; whether only the ceiling of tokens kept it out."""
        pending = len(job.sequence.tokens) - job.sequence.num_scheduled
        if job.doomed or job.short or (pending < 1 and not self._can_run_ahead(job, pending)):
            return False
        if draft.left <= reserve:
            return True
        self._decode_row(draft, job, pending, reserve)
        return False

    @staticmethod
    def _can_run_ahead(job: Job, pending: int) -> bool:
        """Whether a row may be planned on a token that is being sampled."""
        if pending < 0 or job.sampled_step < 0 or job.waits_alone:
            return False
        return len(job.sequence.tokens) + 1 < job.limit

    def _decode_row(self, draft: Draft, job: Job, pending: int, reserve: int) -> None:
        """Adds the row of one token, and of its drafts; marks the job short where there is no page for it."""
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
            return
        new_pages = self._new_pages(job)
        output = self._output(job, start, end, True)
        draft.rows.append(Row(sequence.slot, start, tokens, new_pages, num_drafts, output))
        job.covered = job.sent_pages * self._config.page_tokens if output is SAMPLE else 0
        sequence.num_scheduled = end
        job.steps += 1
        job.sampled_step = draft.step
        draft.left -= end - start
        draft.decode_rows += 1
        draft.kv_tokens += end

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

    def _prefill(self, draft: Draft, prefills: list[Job], now: float) -> None:
        """Adds prefill by rank while tokens and time are left; the first in rank gets one token at least."""
        base_s = self._cost.predict(draft.features)
        target_s = self._config.step_target_s
        draft.spare_s = policy.step_budget_s(base_s, target_s, self._config.step_slack) - base_s
        if self._cost.observed and len(prefills) == len(self._roster.jobs):
            draft.stretch_s = policy.stretch_s(target_s)
        ranked = sorted(((self._running_rank(job), job) for job in prefills if not job.short), reverse=True)
        closed = False
        while draft.left > 0 and (draft.forced or draft.spare_s > 0):
            waiting = self._queue.first() if self._roster.has_slot and not closed else None
            if waiting is not None and (not ranked or waiting.rank < ranked[-1][0]):
                if self._entrance.admit(draft, waiting, now):
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

    def _chunk(self, draft: Draft, job: Job) -> None:
        """Adds as many tokens of the job as time, ceiling and pages allow."""
        sequence, cost = job.sequence, self._cost.coefficients
        start = sequence.num_scheduled
        most = min(len(sequence.tokens) - start, draft.left)
        count = policy.chunk_tokens(start, most, draft.spare_s + draft.stretch_s, cost[1], cost[3])
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
        draft.stretch_s = 0.0
