"""State machine over scheduler and KV: any order of events, depth 1 and 2, one to three KV groups."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.sched.rig import FULL, KINDS, VOCAB, WINDOW, Rig, reference

from penstock.core import ContextLengthExceeded, FinishReason, InvalidRequest, QueueFull, Request, SamplingParams


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        depth=st.sampled_from((1, 2)),
        groups=st.sampled_from(KINDS),
        drafts=st.sampled_from((0, 0, 2)),
        pages=st.tuples(*[st.integers(10, 20)] * 3),
        step=st.sampled_from((4, 16)),
        cache=st.booleans(),
    )
    def start(self, depth, groups, drafts, pages, step, cache):
        choices = dict(pages=pages[: len(groups)], prefix_cache=cache, max_step_tokens=step)
        self.rig = Rig(groups, depth, drafts=drafts, max_waiting=12, **choices)
        for _ in range(5):  # outputs are expected to be short, so that too many are let in
            self.rig.scheduler._lengths.add(1)
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
        with contextlib.suppress(QueueFull, ContextLengthExceeded):
            self.rig.add(f"r{self.count}", prompt, n=n, max_tokens=max_tokens, grammar=grammar, deadline_s=deadline)

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


def pressure(depth, groups, **choices):
    rig = Rig(groups, depth, pages=(12,) * len(groups), **choices)
    rig.add("short", [1], max_tokens=1, eos=())
    rig.run()
    for i in range(6):
        rig.add(f"p{i}", [20 + i] * 6, max_tokens=30, eos=())
    rig.run()
    return rig


@pytest.mark.parametrize("groups", [(FULL,), (FULL, WINDOW)])
@pytest.mark.parametrize("depth", [1, 2])
def test_preemption_changes_no_token_and_ends(depth, groups):
    rig = pressure(depth, groups)
    rig.compare()
    log = rig.scheduler.take_preemptions()
    assert log and len(log) == rig.scheduler.num_preemptions
    assert all(p.cost_tokens > 0 and p.num_preemptions <= 2 for p in log)
    assert max(s.num_preemptions for s in rig.sequences) <= 2


def test_a_backend_whose_tokens_depend_on_the_schedule_is_caught():
    rig = pressure(1, (FULL,), blind=True)
    with pytest.raises(AssertionError, match="depend on the schedule"):
        rig.compare()


def test_a_kv_manager_that_shares_too_much_is_caught(monkeypatch):
    rig = Rig(max_step_tokens=64)
    rig.add("a", [1] * 9, max_tokens=2, eos=())
    rig.run()
    monkeypatch.setattr(
        rig.kv._index, "find", lambda keys, tokens, extras, packed: ([*rig.kv._index.entries()][:2], None)
    )
    rig.add("b", [1, 2, 3, 4] * 2 + [9], max_tokens=2, eos=())
    with pytest.raises(AssertionError, match="wrong KV"):
        rig.run()


def cold_rig(cache=True):
    rig = Rig(
        max_model_tokens=1100, pages=(400,), page_tokens=16, max_step_tokens=256, max_running=16, prefix_cache=cache
    )
    for i in range(16):
        rig.add(f"c{i}", [5] * 1000 + [i] * 8, max_tokens=1, eos=())
    return rig


def test_sixteen_cold_requests_compute_their_prefix_once():
    rig = cold_rig()
    rig.run()
    rig.compare()
    # 992 tokens are whole pages; what follows them is each request's own.
    assert rig.backend.computed == 992 + 16 * 16


def test_without_the_cache_the_same_requests_compute_it_sixteen_times():
    rig = cold_rig(cache=False)
    rig.run()
    assert rig.backend.computed == 16 * 1008


@pytest.mark.parametrize("end", ["cancel", "error"])
def test_a_waiter_takes_over_when_the_computing_one_dies(end):
    rig = cold_rig()
    rig.plan()
    rig.commit()
    rig.plan()
    if end == "cancel":
        rig.note(rig.scheduler.cancel("c0"))
        rig.commit()
    else:
        rig.commit(bad={0})
    rig.run()
    rig.compare()
    assert len(rig.ends) == 16
    lost = 512 if end == "error" else 256
    assert rig.backend.computed <= 992 + 16 * 16 + lost


def test_pages_of_a_failed_row_are_never_hit():
    rig = Rig(max_step_tokens=8)
    rig.add("a", [1] * 12, max_tokens=2, eos=())
    rig.plan()
    rig.commit()
    rig.plan()
    rig.commit(bad={0})
    assert rig.ends["a", 0] == (FinishReason.ERROR, "invalid_logits")
    rig.add("b", [1] * 12, max_tokens=2, eos=())
    rig.run()
    assert rig.sequences[1].num_cached == 0
    rig.add("c", [1] * 12, max_tokens=2, eos=())
    rig.run()
    assert rig.sequences[2].num_cached == 8


def test_equal_prompts_finish_one_after_another():
    rig = Rig(pages=(200,), max_step_tokens=16, max_running=8, prefix_cache=False)
    for i in range(8):
        rig.add(f"e{i}", [i + 10] * 32, max_tokens=1, eos=())
    rig.run()
    first = [s.first_token_s for s in rig.sequences]
    assert first == sorted(first) and len(set(first)) == 8


def test_short_prompts_pass_long_ones():
    rig = Rig(pages=(400,), max_model_tokens=400, max_step_tokens=16, max_running=2)
    rig.add("long", [1] * 300, max_tokens=1)
    rig.plan()
    rig.add("short", [2] * 8, max_tokens=1, eos=())
    rig.commit()
    rig.run()
    assert rig.order[0] == ("short", 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0, 0.5)), min_size=2, max_size=25), st.sampled_from((1, 2)))
def test_nobody_is_passed_by_what_comes_after_the_bound(arrivals, depth):
    rate = 100.0
    rig = Rig(
        (FULL,), depth, pages=(400,), max_model_tokens=80, max_step_tokens=8, age_tokens_per_s=rate, prefix_cache=False
    )
    rig.scheduler._cost.observe = lambda features, duration_s: None
    arrivals = sorted(arrivals, key=lambda pair: pair[1])
    joined = {}
    while arrivals or rig.scheduler.num_running or rig.scheduler.num_waiting or rig.backend.pending:
        while arrivals and arrivals[0][1] <= rig.now:
            length, _ = arrivals.pop(0)
            joined[len(joined)] = (rig.now, length)
            rig.add(f"s{len(joined)}", [len(joined) % VOCAB] * length, max_tokens=1, eos=())
        if not rig.turn():
            rig.now += 0.01
    firsts = [s.first_scheduled_s for s in rig.sequences]
    for i, (at, length) in joined.items():
        for k, (later, _) in joined.items():
            assert not (later > at + length / rate and firsts[k] < firsts[i]), "passed beyond the bound"


@pytest.mark.parametrize("groups", [(FULL,), (FULL, WINDOW)])
def test_samples_fork_from_one_prompt(groups):
    rig = Rig(groups, pages=(40,) * len(groups), max_step_tokens=64)
    rig.add("n", list(range(30, 40)), n=4, max_tokens=6, eos=())
    rig.run()
    rig.compare()
    assert len({tuple(s.tokens) for s in rig.sequences}) == 4
    assert rig.backend.computed == 10 + 3 * 1 + 4 * 5
    kv = rig.scheduler.kv  # what samples share is no hit: the cache held nothing when the request came
    assert [s.num_cached for s in rig.sequences] == [0] * 4 and (kv.queries_tokens, kv.hits_tokens) == (10, 0)


def test_deadlines_end_the_queued_unprefilled_and_the_running():
    rig = Rig(max_running=1)
    rig.add("runs", [1] * 4, max_tokens=30, eos=(), deadline_s=0.005)
    rig.add("waits", [2] * 4, max_tokens=3, eos=(), deadline_s=0.001)
    rig.run()
    assert rig.ends["runs", 0] == rig.ends["waits", 0] == (FinishReason.ERROR, "deadline_exceeded")
    assert 0 < rig.sequences[0].num_output < 30 and rig.sequences[1].first_scheduled_s < 0


def test_min_tokens_delay_stop_ids_and_stop_tokens_are_reported():
    rig = Rig()
    whole = reference(Request("x", (1,), SamplingParams(seed=ord("x"))), 0, 12)
    stop = whole[3]
    rig.add("x", [1], max_tokens=11, stop_token_ids=(stop,), eos=())
    plans = []
    while (plan := rig.plan()) is not None:
        plans.append(plan)
        _, result = rig.backend.finish()
        (outcome,) = rig.scheduler.commit(plan, result, rig.now)
    assert outcome.finish is FinishReason.STOP and outcome.stop_token == stop == outcome.tokens[-1]
    assert rig.sequences[0].tokens == whole[: whole.index(stop, 1) + 1]


def test_what_can_never_fit_is_refused_with_both_numbers():
    rig = Rig()
    with pytest.raises(ContextLengthExceeded, match=r"39 .* 5, together 44; at most 40"):
        rig.add("x", [1] * 39, max_tokens=5)
    with pytest.raises(ContextLengthExceeded, match="40 tokens"):
        rig.add("x", [1] * 40)
    with pytest.raises(InvalidRequest, match="token id 50"):
        rig.add("x", [50])
    with pytest.raises(ContextLengthExceeded, match="at most 8 fit"):
        Rig(pages=(2,)).add("x", [1] * 8)


def test_a_full_queue_says_when_to_come_again():
    rig = Rig(max_waiting=2)
    rig.add("a", [1] * 30)
    rig.add("b", [1] * 30)
    with pytest.raises(QueueFull) as caught:
        rig.add("c", [1])
    assert caught.value.retry_after_s > 0
    tokens = Rig(max_waiting_tokens=40)
    tokens.add("a", [1] * 30)
    with pytest.raises(QueueFull, match="at most 40"):
        tokens.add("b", [1] * 30)


def test_prefill_joins_only_while_the_step_stays_in_its_time():
    rig = Rig(pages=(600,), max_model_tokens=2000, max_step_tokens=2000, step_target_s=0.02, step_slack=2.0)
    rig.add("d", [1] * 4, max_tokens=50, eos=())
    rig.turn()
    rig.add("p", [2] * 1500, max_tokens=1, eos=())
    plan = rig.plan()
    sizes = sorted(row.num_tokens for row in plan.rows)
    assert sizes[0] == 1 and 1 < sizes[1] < 1500
    cost = rig.scheduler.predicted_step_s
    read = 5 + sizes[1] * (sizes[1] + 1) // 2
    assert cost(sizes[1], 1, read) <= 0.02 < cost(sizes[1] + 1, 1, read + sizes[1] + 1)


def test_prompt_logprobs_cover_every_position_once_and_bypass_hits():
    rig = Rig(max_step_tokens=8)
    rig.add("a", [1] * 20, max_tokens=1, eos=())
    rig.run()
    rig.add("b", [1] * 20, max_tokens=1, eos=(), prompt_logprobs=2)
    asked = []
    while (plan := rig.plan()) is not None:
        for row in plan.rows:
            asked.extend(range(row.output.first, row.output.first + row.output.num))
        rig.commit()
    assert asked == list(range(1, 20)) and rig.sequences[1].num_cached == 0
