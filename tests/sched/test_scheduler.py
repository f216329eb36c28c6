"""State machine over scheduler and KV: any order of events, depth 1 and 2, one and two KV groups."""

import hashlib
from collections import deque

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock.core import (
    ContextLengthExceeded,
    EngineConfig,
    FinishReason,
    FutureToken,
    KvGroup,
    QueueFull,
    Request,
    RowResult,
    SamplingParams,
    SequenceState,
    StepResult,
)
from penstock.kv import KvManager
from penstock.sched import Scheduler

VOCAB = 50
FULL = KvGroup("full", (0,), 1)
WINDOW = KvGroup("window", (1,), 1, window=6)


def next_token(seed, sample, known):
    """A pure function of request, sample and all tokens before: what a deterministic model would sample."""
    return hashlib.sha256(repr((seed, sample, known)).encode()).digest()[0] % VOCAB


class FakeBackend:
    """Keeps KV as the token written at every page position; a read of anything else is caught."""

    def __init__(self, groups, page_tokens, *, blind=False, drafts=0):
        self.groups, self.size, self.blind, self.drafts = groups, page_tokens, blind, drafts
        self.memory = [{} for _ in groups]
        self.slots, self.pending, self.sampled = {}, deque(), {}
        self.computed = 0

    def submit(self, plan):
        for slot in plan.released_slots:
            self.slots.pop(slot, None)
        for opened in plan.opened:
            assert opened.slot not in self.slots, "a slot is open already"
            self.slots[opened.slot] = [opened, list(opened.tokens), [[] for _ in self.groups]]
        for copy in plan.copies:
            for offset in range(self.size):
                value = self.memory[copy.group].get((copy.source, offset))
                self.memory[copy.group][copy.target, offset] = value
        assert len({row.slot for row in plan.rows}) == len(plan.rows)
        self.pending.append((plan, [self._row(plan, row) for row in plan.rows]))

    def _row(self, plan, row):
        opened, known, tables = self.slots[row.slot]
        for table, pages in zip(tables, row.new_pages, strict=True):
            table.extend(pages)
        if isinstance(row.tokens, FutureToken):
            assert self.sampled[row.slot] == row.tokens.step
            tokens = (known[row.start],)
        else:
            tokens = row.tokens
        if row.num_drafts == 0 and row.start + len(tokens) > len(known):
            raise AssertionError("a row goes beyond what is known")
        accepted = []
        prefix = known[: row.start + len(tokens) - row.num_drafts]
        assert tuple(prefix[row.start :]) == tuple(tokens[: len(tokens) - row.num_drafts])
        for i, token in enumerate(tokens):
            for group, table in enumerate(tables):
                position = row.start + i
                self.memory[group][table[position // self.size], position % self.size] = (token, position)
        self.computed += len(tokens)
        self._check_reads(row, known, tables, len(tokens) - row.num_drafts)
        if not row.output.sample:
            return RowResult()
        for draft in (*tokens[len(tokens) - row.num_drafts :], None):
            token = next_token(opened.seed, opened.sample, tuple(prefix[:1] if self.blind else prefix))
            if self.blind:
                token = (token + plan.step) % VOCAB
            accepted.append(token)
            prefix.append(token)
            if draft != token:
                break
        self.slots[row.slot][1] = prefix
        self.sampled[row.slot] = plan.step
        drafts = ()
        if self.drafts and len(prefix) % 2:
            true = next_token(opened.seed, opened.sample, tuple(prefix))
            drafts = (true, 7)[: self.drafts]
        return RowResult(tuple(accepted), drafts=drafts)

    def _check_reads(self, row, known, tables, count):
        for group, spec in enumerate(self.groups):
            first = 0 if spec.window is None else max(0, row.start - spec.window + 1)
            for position in range(first, row.start + count):
                page = tables[group][position // self.size]
                assert page >= 0, "a page in reach was freed"
                assert self.memory[group][page, position % self.size] == (known[position], position), "wrong KV"

    def finish(self, bad=()):
        plan, rows = self.pending.popleft()
        rows = [RowResult(error="invalid_logits") if i in bad else row for i, row in enumerate(rows)]
        return plan, StepResult(plan.step, tuple(rows), 0.001 * len(rows) + 0.0001)


def reference(request, sample, limit):
    """One request, no cache, no schedule."""
    known = list(request.prompt_tokens)
    while len(known) < limit:
        known.append(next_token(request.sampling.seed, sample, tuple(known)))
        stops = set(request.eos_token_ids)
        if known[-1] in stops and len(known) - len(request.prompt_tokens) > request.sampling.min_tokens:
            break
    return known


class Rig:
    def __init__(self, groups=(FULL,), depth=1, blind=False, drafts=0, **choices):
        defaults = dict(max_model_tokens=40, vocab_size=VOCAB, page_tokens=4, max_step_tokens=16, max_running=4)
        choices = defaults | dict(pages=(14,) * len(groups)) | choices
        self.config = EngineConfig(depth=depth, **choices)
        self.kv = KvManager(groups, self.config)
        self.scheduler = Scheduler(self.config, self.kv)
        self.backend = FakeBackend(groups, self.config.page_tokens, blind=blind, drafts=drafts)
        self.sequences, self.ends, self.now, self.order = [], {}, 0.0, []

    def add(self, id, prompt, **sampling):
        eos = sampling.pop("eos", (3,))
        top = {k: sampling.pop(k) for k in ("deadline_s", "grammar", "priority") if k in sampling}
        params = SamplingParams(seed=sum(map(ord, id)), **sampling)
        request = Request(id, tuple(prompt), params, eos_token_ids=eos, **top)
        self.sequences.extend(self.scheduler.add(request, self.now))

    def note(self, outcomes):
        for outcome in outcomes:
            key = (outcome.sequence.request.id, outcome.sequence.sample)
            assert key not in self.ends, "an outcome after the end"
            if outcome.finish is not None:
                self.ends[key] = (outcome.finish, outcome.error)
                self.order.append(key)

    def plan(self):
        plan = self.scheduler.plan(self.now)
        if plan is not None:
            self.backend.submit(plan)
        return plan

    def commit(self, bad=()):
        plan, result = self.backend.finish(bad)
        self.now += result.duration_s
        self.note(self.scheduler.commit(plan, result, self.now))

    def turn(self):
        """One loop of the engine; whether there was anything to do."""
        self.note(self.scheduler.expire(self.now))
        plan = self.plan()
        if self.backend.pending and (plan is None or len(self.backend.pending) >= self.config.depth):
            self.commit()
            return True
        return plan is not None

    def run(self):
        for _ in range(5000):
            if not self.turn():
                break
        assert self.scheduler.num_running == self.scheduler.num_waiting == 0, "requests are stuck"
        self.check()
        assert self.kv.pages_held == 0

    def check(self):
        self.kv.check()
        slots = [s.slot for s in self.sequences if s.state is SequenceState.RUNNING]
        assert len(set(slots)) == len(slots) and -1 not in slots
        for s in self.sequences:
            assert s.num_preemptions <= self.config.max_preemptions

    def compare(self):
        for s in self.sequences:
            finish, error = self.ends[s.request.id, s.sample]
            limit = self.scheduler.admissible(s.request)
            whole = reference(s.request, s.sample, limit)
            if finish in (FinishReason.STOP, FinishReason.LENGTH):
                assert s.tokens == whole, "tokens depend on the schedule"
            else:
                assert s.tokens == whole[: len(s.tokens)]


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        depth=st.sampled_from((1, 2)),
        groups=st.sampled_from(((FULL,), (FULL, WINDOW))),
        drafts=st.sampled_from((0, 0, 2)),
        pages=st.integers(10, 20),
        cache=st.booleans(),
    )
    def start(self, depth, groups, drafts, pages, cache):
        pages = (pages,) * len(groups)
        self.rig = Rig(groups, depth, drafts=drafts, pages=pages, prefix_cache=cache, max_waiting=12)
        self.count = 0

    @rule(
        family=st.integers(0, 1),
        length=st.integers(1, 30),
        n=st.integers(1, 3),
        max_tokens=st.integers(1, 12) | st.none(),
        grammar=st.none() | st.just("g"),
        soon=st.booleans(),
    )
    def add(self, family, length, n, max_tokens, grammar, soon):
        self.count += 1
        prompt = [family] * (length // 2) + [10 + self.count % 7] * (length - length // 2)
        deadline = self.rig.now + 0.02 if soon and self.count % 5 == 0 else None
        try:
            self.rig.add(f"r{self.count}", prompt, n=n, max_tokens=max_tokens, grammar=grammar, deadline_s=deadline)
        except (QueueFull, ContextLengthExceeded):
            pass

    @rule(which=st.integers(0, 30))
    def cancel(self, which):
        self.rig.note(self.rig.scheduler.cancel(f"r{which}"))

    @rule(which=st.integers(0, 30), sample=st.integers(0, 2))
    def stop(self, which, sample):
        outcome = self.rig.scheduler.finish(f"r{which}", sample, FinishReason.CANCELLED)
        self.rig.note(() if outcome is None else (outcome,))

    @precondition(lambda self: len(self.rig.backend.pending) < self.rig.config.depth)
    @rule()
    def plan(self):
        self.rig.plan()

    @precondition(lambda self: self.rig.backend.pending)
    @rule(bad=st.sets(st.integers(0, 3), max_size=1))
    def commit(self, bad):
        self.rig.commit(bad if self.count % 3 == 0 else ())

    @rule(turns=st.integers(1, 6))
    def turns(self, turns):
        for _ in range(turns):
            self.rig.note(self.rig.scheduler.expire(self.rig.now))
            while self.rig.backend.pending:
                self.rig.commit()
            self.rig.plan()

    @invariant()
    def check_all(self):
        if hasattr(self, "rig"):
            self.rig.check()

    def teardown(self):
        if not hasattr(self, "rig"):
            return
        rig = self.rig
        while rig.backend.pending:
            rig.commit()
        rig.run()
        assert len(rig.ends) == len(rig.sequences), "a request never ended"
        rig.compare()



TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
