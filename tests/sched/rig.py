"""A scheduler with a backend that keeps KV as tokens and catches every wrong read; shared by this room's tests."""

import hashlib
from collections import deque

from penstock.core import (
    EngineConfig,
    FinishReason,
    FutureToken,
    KvGroup,
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
NARROW = KvGroup("narrow", (2,), 1, window=1)
KINDS = ((FULL,), (FULL, WINDOW), (WINDOW,), (FULL, NARROW, WINDOW))  # of models


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
        prefix = known[: row.start + len(tokens) - row.num_drafts]
        assert tuple(prefix[row.start :]) == tuple(tokens[: len(tokens) - row.num_drafts])
        for i, token in enumerate(tokens):
            for group, table in enumerate(tables):
                position = row.start + i
                self.memory[group][table[position // self.size], position % self.size] = (token, position)
        self.computed += len(tokens)
        self._check_reads(row, known, tables, len(tokens) - row.num_drafts)
        return self._sample(plan, row, opened, tokens, prefix) if row.output.sample else RowResult()

    def _sample(self, plan, row, opened, tokens, prefix):
        accepted = []
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
            finish, _ = self.ends[s.request.id, s.sample]
            limit = self.scheduler.admissible(s.request)
            whole = reference(s.request, s.sample, limit)
            if finish in (FinishReason.STOP, FinishReason.LENGTH):
                assert s.tokens == whole, "tokens depend on the schedule"
            else:
                assert s.tokens == whole[: len(s.tokens)]
