"""The scheduler's door: requests in, plans out, results in, outcomes out.

Knows nothing about tensors, text, threads or where time comes from. Invariant: every sequence that was added ends
exactly once, in an outcome with a finish or an error.
"""

from __future__ import annotations

import heapq
from collections import deque

from penstock.core import (
    Conflict,
    EngineConfig,
    FinishReason,
    InvalidRequest,
    Outcome,
    Request,
    Row,
    RowResult,
    Sequence,
    SequenceState,
    StepPlan,
    StepResult,
)
from penstock.kv import KvManager, PromptPages
from penstock.sched import policy
from penstock.sched.admission import Line, OutputLengths, check_fits, check_ids, check_queue
from penstock.sched.cost import StepCost, StepFeatures
from penstock.sched.job import Job
from penstock.sched.planner import Planner
from penstock.sched.queue import WaitingQueue
from penstock.sched.roster import Preemption, Roster

DEADLINE = "deadline_exceeded"
new_tuple = tuple.__new__


class Scheduler:
    """Who runs in the next step, and what a step's results mean.

    Args:
        config: resolved choices.
        kv: page tables over the same groups as the backend's.
    """

    def __init__(self, config: EngineConfig, kv: KvManager) -> None:
        self._config = config
        self._kv = kv
        self._max_tokens = kv.max_tokens(config.max_model_tokens)
        self._queue = WaitingQueue()
        self._roster = Roster(config, kv, self._line_up)
        self._cost = StepCost()
        self._lengths = OutputLengths()
        self._planner = Planner(config, kv, self._queue, self._roster, self._cost, self._lengths)
        self._families: dict[str, list[Job]] = {}
        self._deadlines: list[tuple[float, int, Job]] = []
        self._expired: list[Outcome] = []
        self._under_way: deque[tuple[int, StepFeatures]] = deque()
        self._next_sequence = 0
        self._next_step = 0

    # The door, on plain data: any thread.

    def admissible(self, request: Request) -> int:
        """Tokens at which the request's samples end; InvalidRequest or ContextLengthExceeded if it can never fit."""
        limit = check_fits(request, self._max_tokens, self._config)
        check_ids(request, self._config)
        return limit

    def prompt_pages(self, request: Request) -> PromptPages:
        """The prompt's page hashes and packed ids, to be given to `add`."""
        return self._kv.prompt_pages(request)

    def check_room(self, request: Request, num_sequences: int = 0, num_tokens: int = 0) -> None:
        """Passes if the queue has room for the request; looks at counters only.

        Args:
            request: what is asked.
            num_sequences: sequences on their way to the queue, beside those in it.
            num_tokens: prompt tokens of theirs.

        Raises:
            QueueFull: too many wait; says after how many seconds to come again.
        """
        sequences, tokens = len(self._queue) + num_sequences, self._queue.num_tokens + num_tokens
        line = Line(sequences, tokens, self._lengths.predicted, self._cost.coefficients)
        check_queue(request, line, self._config)

    # Inputs of a step.

    def add(self, request: Request, now: float, pages: PromptPages | None = None) -> tuple[Sequence, ...]:
        """Puts the request's samples in line and returns their sequences.

        Args:
            request: its seed is resolved.
            now: the injected clock.
            pages: from `prompt_pages`, given by a door that has called `admissible`; if they are not given, the
                prompt is checked and hashed here.

        Raises:
            InvalidRequest, ContextLengthExceeded: it can never be served.
            QueueFull: too many wait; says after how many seconds to come again.
            Conflict: a live request has the same id.
        """
        limit = check_fits(request, self._max_tokens, self._config)
        if request.sampling.seed is None:
            raise InvalidRequest("the seed is None; it must be drawn before a request is added.", param="seed")
        if request.id in self._families:
            raise Conflict(f"a request with id {request.id!r} is running.", param="id", hint="choose another id.")
        self.check_room(request)
        if pages is None:
            check_ids(request, self._config)
            pages = self._kv.prompt_pages(request)
        family: list[Job] = []
        for sample in range(request.sampling.n):
            tokens = list(request.prompt_tokens)
            sequence = Sequence(self._next_sequence, request, sample, tokens, len(tokens))
            self._next_sequence += 1
            job = Job(sequence, pages, limit, now)
            family.append(job)
            self._line_up(job)
            if request.deadline_s is not None:
                heapq.heappush(self._deadlines, (request.deadline_s, sequence.id, job))
        self._families[request.id] = family
        return tuple([job.sequence for job in family])

    def _line_up(self, job: Job) -> None:
        """Puts a job in line, by what is left to compute as far as the prefix index knows."""
        sequence = job.sequence
        remaining = max(1, len(sequence.tokens) - self._kv.estimate(job.keys))
        job.rank = policy.rank(
            sequence.request.priority, remaining, job.joined_s, self._config.age_tokens_per_s, sequence.id
        )
        self._queue.push(job)

    def cancel(self, request_id: str) -> tuple[Outcome, ...]:
        """Ends what is left of a request; () for an unknown id."""
        jobs = list(self._families.get(request_id, ()))
        return tuple([self._end(job, FinishReason.CANCELLED) for job in jobs])

    def finish(self, request_id: str, sample: int, reason: FinishReason) -> Outcome | None:
        """Ends one sample from outside (a stop string); None if it has ended. What is under way for it is dropped."""
        for job in self._families.get(request_id, ()):
            if job.sequence.sample == sample:
                if reason in (FinishReason.STOP, FinishReason.LENGTH):
                    self._lengths.add(job.sequence.num_output)
                return self._end(job, reason)
        return None

    def expire(self, now: float) -> tuple[Outcome, ...]:
        """Ends whatever is past its deadline; the outcomes since the last call, those that `plan` ended included."""
        self._expire(now)
        expired = tuple(self._expired)
        self._expired.clear()
        return expired

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            job = heapq.heappop(self._deadlines)[2]
            if not job.ended:
                self._expired.append(self._end(job, FinishReason.ERROR, error=DEADLINE))

    # A step.

    def plan(self, now: float) -> StepPlan | None:
        """The next step; None if there is nothing to compute before a commit or an arrival.

        May be called with `depth` - 1 steps uncommitted. Sequences past their deadline end here without being
        computed; `expire` or the next `commit` reports them.
        """
        assert len(self._under_way) < self._config.depth, "more steps under way than the depth allows"
        self._expire(now)
        made = self._planner.plan(self._next_step, now, self._families)
        if made is None:
            return None
        plan, features = made
        self._under_way.append((plan.step, features))
        self._next_step += 1
        return plan

    def commit(self, plan: StepPlan, result: StepResult, now: float) -> tuple[Outcome, ...]:
        """Books a step's results, oldest step first; what came of each sequence, in row order."""
        step, features = self._under_way.popleft()
        assert step == plan.step == result.step, "steps are committed in the order of their plans"
        assert len(plan.rows) == len(result.rows), "a result has one entry a row"
        self._cost.observe(features, result.duration_s)
        outcomes = self._expired
        self._expired = []
        by_slot, page_tokens, add = self._roster.by_slot, self._config.page_tokens, outcomes.append
        for row, row_result in zip(plan.rows, result.rows, strict=True):
            job = by_slot[row[0]]
            assert job is not None, "a slot was let go before its last step"
            tokens = row_result[0]
            # One token after one token, the sample goes on: nearly every row of nearly every step. By index, as names
            # of a named tuple and its unpacking take a multiple: no prompt logprobs, no drafts, no error.
            if (
                len(tokens) == len(row[2]) == 1
                and row[1] < job.covered
                and row_result[2] is None
                and not (row_result[3] or row_result[5] or job.ended or job.doomed)
                and tokens[0] not in job.stops
            ):
                sequence = job.sequence
                known = sequence.tokens
                if len(known) + 1 < job.limit and sequence.first_token_s >= 0.0:
                    job.steps -= 1
                    if job.sampled_step == step:
                        job.sampled_step = -1
                    known.append(tokens[0])
                    sequence.num_computed = computed = row[1] + 1
                    if computed % page_tokens == 0:
                        self._kv.commit(sequence)
                    add(new_tuple(Outcome, (sequence, tokens, row_result[1], None, None, None, None)))
                    continue
            job.steps -= 1
            if job.sampled_step == step:
                job.sampled_step = -1
            outcome = self._settle(job, row, row_result, now)
            if outcome is not None:
                add(outcome)
        return tuple(outcomes)

    def _settle(self, job: Job, row: Row, result: RowResult, now: float) -> Outcome | None:
        """Books a row of any kind; what ended or lost its pages meanwhile lets go of them with the last step."""
        if job.ended:
            if job.steps == 0:
                self._roster.vacate(job)
            return None
        outcome = self._book(job, row, result, now)
        if job.doomed and job.steps == 0:
            self._roster.preempt(job)
        return outcome

    def _book(self, job: Job, row: Row, result: RowResult, now: float) -> Outcome | None:
        """Applies one row's result to its sequence."""
        tokens = result.tokens
        if result.error is not None:
            return self._end(job, FinishReason.ERROR, error=result.error, poisoned=True)
        sequence = job.sequence
        before = sequence.num_computed
        # Drafts that were not accepted leave nothing behind: their positions are computed again.
        sequence.num_computed = row.start + row.num_tokens - row.num_drafts + max(0, len(tokens) - 1)
        if row.num_drafts:
            sequence.num_scheduled = sequence.num_computed
        reason = None
        if tokens:
            if sequence.first_token_s < 0:
                sequence.first_token_s = now
            tokens, reason = self._append(job, tokens)
            sequence.num_computed = min(sequence.num_computed, len(sequence.tokens))
        size = self._config.page_tokens
        if sequence.num_computed // size != before // size:
            self._kv.commit(sequence)
        if not tokens and result.prompt_logprobs is None:
            return None
        return self._report(job, tokens, reason, result)

    def _report(self, job: Job, tokens: tuple[int, ...], reason: FinishReason | None, result: RowResult) -> Outcome:
        """The outcome of a row that went well; takes up the drafts that came with it."""
        logprobs = result.logprobs if result.logprobs is None else result.logprobs[: len(tokens)]
        if reason is not None:
            self._lengths.add(job.sequence.num_output)
            return self._end(job, reason, result=RowResult(tokens, logprobs, result.prompt_logprobs))
        if result.drafts:
            job.waits_alone = True
            job.covered = 0
            if job.steps == 0:
                job.sequence.drafts = result.drafts
        return Outcome(job.sequence, tokens, logprobs, result.prompt_logprobs, None, None, None)

    @staticmethod
    def _append(job: Job, tokens: tuple[int, ...]) -> tuple[tuple[int, ...], FinishReason | None]:
        """Appends sampled tokens up to the one that ends the sample; those kept, and why it ended."""
        sequence = job.sequence
        known, stops = sequence.tokens, job.stops
        first_stop = sequence.num_prompt + sequence.request.sampling.min_tokens  # a stop may stand here or later
        for index, token in enumerate(tokens):
            known.append(token)
            if token in stops and len(known) > first_stop:
                return tokens[: index + 1], FinishReason.STOP
            if len(known) >= job.limit:
                return tokens[: index + 1], FinishReason.LENGTH
        return tokens, None

    def _end(
        self,
        job: Job,
        reason: FinishReason,
        *,
        error: str | None = None,
        poisoned: bool = False,
        result: RowResult | None = None,
    ) -> Outcome:
        """Ends a sample wherever it is."""
        sequence = job.sequence
        job.ended = True
        sequence.state = SequenceState.FINISHED
        if sequence.id in self._roster.jobs:
            self._roster.end(job, poisoned=poisoned)
        else:
            self._queue.remove(job)
        family = self._families[sequence.request.id]
        family.remove(job)
        if not family:
            del self._families[sequence.request.id]
        if result is None:
            return Outcome(sequence, (), None, None, reason, None, error)
        stop_token = result.tokens[-1] if reason is FinishReason.STOP else None
        return Outcome(sequence, result.tokens, result.logprobs, result.prompt_logprobs, reason, stop_token, error)

    # What people and metrics ask.

    @property
    def kv(self) -> KvManager:
        """The page tables."""
        return self._kv

    @property
    def num_running(self) -> int:
        """Sequences with a slot."""
        return len(self._roster.jobs)

    @property
    def num_waiting(self) -> int:
        """Sequences in line."""
        return len(self._queue)

    @property
    def num_preemptions(self) -> int:
        """Since the start."""
        return self._roster.num_preemptions

    def oldest_waiting_s(self, now: float) -> float:
        """Age of the sequence that is longest in line; 0 when there is none."""
        oldest = self._queue.oldest_s
        return 0.0 if oldest is None else max(0.0, now - oldest)

    def take_preemptions(self) -> tuple[Preemption, ...]:
        """Preemptions since the last call, with what each one costs, for the log."""
        return self._roster.take_preemptions()

    def predicted_step_s(self, prefill_tokens: int, decode_rows: int, kv_tokens: int) -> float:
        """Seconds that such a step is expected to take, by the fit over the steps so far."""
        return self._cost.predict(StepFeatures(prefill_tokens, decode_rows, kv_tokens))
