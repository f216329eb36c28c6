"""Rows: who gets one, how long it is, and in which order."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sched.rig import FULL, VOCAB, Rig

from penstock.core import NO_OUTPUT, SAMPLE, OutputKind
from penstock.sched.policy import STRETCH


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 70), st.integers(0, 2), st.floats(0, 0.6)), min_size=2, max_size=25),
    st.sampled_from((1, 2)),
)
def test_the_bound_holds_with_shared_prefixes_and_long_prompts(arrivals, depth):
    """Passed only by what joined before t + r/a, or by one whose pages somebody ahead was waiting for."""
    rate = 100.0
    rig = Rig(
        (FULL,), depth, pages=(600,), max_model_tokens=80, max_step_tokens=8, age_tokens_per_s=rate, max_running=30
    )
    rig.scheduler._cost.observe = lambda features, duration_s: None
    arrivals = sorted(arrivals, key=lambda one: one[2])
    joined = []
    while arrivals or rig.scheduler.num_running or rig.scheduler.num_waiting or rig.backend.pending:
        while arrivals and arrivals[0][2] <= rig.now:
            length, family, _ = arrivals.pop(0)
            shared = length // 2
            joined.append((rig.now, length, family))
            rig.add(
                f"s{len(joined)}", [family] * shared + [len(joined) % VOCAB] * (length - shared), max_tokens=1, eos=()
            )
        if not rig.turn():
            rig.now += 0.01
    rig.compare()
    firsts = [s.first_scheduled_s for s in rig.sequences]
    for i, (at, length, family) in enumerate(joined):
        for k, (later, _, other) in enumerate(joined):
            if later > at + length / rate and firsts[k] < firsts[i]:
                assert family == other, "passed beyond the bound by a stranger"


def test_ranks_reversed_break_the_bound(monkeypatch):
    """The control: without ageing, short prompts that keep coming pass a long one for ever."""
    monkeypatch.setattr("penstock.sched.policy.rank", lambda priority, left, joined, rate, id: (priority, left, id))
    rig = Rig(pages=(600,), max_model_tokens=80, max_step_tokens=8, max_running=1, prefix_cache=False)
    rig.add("first", [0] * 4, max_tokens=1, eos=())
    rig.add("long", [1] * 70, max_tokens=1, eos=())
    for i in range(50):
        rig.add(f"short{i}", [2] * 6, max_tokens=1, eos=())
        rig.turn()
        rig.now += 10.0
    assert rig.sequences[1].first_scheduled_s < 0


def test_a_decode_row_names_new_pages_once_and_nothing_between():
    rig = Rig(pages=(14,))
    rig.add("a", [1] * 3, max_tokens=10, eos=())
    rows = []
    while (plan := rig.plan()) is not None:
        rows.extend(plan.rows)
        rig.commit()
    assert [row.start for row in rows] == [0, *range(3, 12)]
    assert [len(row.new_pages[0]) for row in rows] == [1, 0, 1, 0, 0, 0, 1, 0, 0, 0]
    assert all(row.output is SAMPLE and row.num_drafts == 0 for row in rows)


def test_only_the_last_chunk_samples_and_prompt_logprobs_ride_on_every_one():
    rig = Rig(max_step_tokens=8)
    rig.add("a", [1] * 20, max_tokens=1, eos=())
    rig.add("b", [2] * 20, max_tokens=1, eos=(), prompt_logprobs=1)
    outputs = {0: [], 1: []}
    while (plan := rig.plan()) is not None:
        for row in plan.rows:
            outputs[row.slot].append(row.output)
        rig.commit()
    assert outputs[0][:-1] == [NO_OUTPUT] * (len(outputs[0]) - 1) and outputs[0][-1] is SAMPLE
    kinds = outputs[1]
    assert all(output.kind is OutputKind.PROMPT_LOGPROBS for output in kinds)
    assert [output.sample for output in kinds] == [False] * (len(kinds) - 1) + [True]


def test_rows_that_no_step_can_hold_together_take_turns_and_prefill_keeps_a_token():
    rig = Rig(pages=(60,), max_step_tokens=3, max_running=8)
    for i in range(5):
        rig.add(f"d{i}", [i], max_tokens=12, eos=())
    for _ in range(8):
        rig.turn()
    rig.add("p", [9] * 6, max_tokens=1, eos=())
    served = {}
    for _ in range(6):
        plan = rig.plan()
        assert sum(row.num_tokens for row in plan.rows) <= 3
        for row in plan.rows:
            served[row.slot] = served.get(row.slot, 0) + 1
        rig.commit()
    assert len(served) == 6, "everybody got a row, the prompt too"
    rig.run()
    rig.compare()


def sizes_of(plan):
    return [row.num_tokens for row in plan.rows]


def fitted(target_s, **choices):
    """A rig whose fit is exact and stays so: 1 ms a step, 1 ms a token."""
    big = dict(pages=(2000,), max_model_tokens=4000, max_step_tokens=4000, prefix_cache=False)
    rig = Rig(**(big | dict(step_target_s=target_s) | choices))
    cost = rig.scheduler._cost
    cost.coefficients, cost.observed = [1e-3, 1e-3, 1e-3, 0.0], True
    cost.observe = lambda features, duration_s: None
    return rig


def walk(rig):
    """Every plan until nothing is left."""
    while True:
        plan = rig.plan()
        if plan is not None:
            yield plan
        elif not rig.backend.pending:
            return
        if plan is None or len(rig.backend.pending) >= rig.config.depth:
            rig.commit()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=4), st.booleans(), st.sampled_from((1, 2)))
def test_only_the_first_prompt_stretches_a_step_and_only_where_nobody_decodes(prompts, decodes, depth):
    target_s = 0.2
    rig = fitted(target_s, depth=depth, max_running=8)
    if decodes:
        rig.add("d", [1], max_tokens=50, eos=())
        rig.turn()
    for i, length in enumerate(prompts):
        rig.add(f"p{i}", [2] * length, max_tokens=1, eos=())
    taken = []
    for plan in walk(rig):
        seconds = 1e-3 + 1e-3 * sum(sizes_of(plan))
        taken.append(seconds)
        assert seconds <= STRETCH * target_s + 1e-9
        if len(plan.rows) > 1 or (decodes and len(taken) < 40):
            assert seconds <= target_s + 1e-9
    rig.compare()
    if not decodes and depth == 1 and max(prompts) >= 600:
        assert max(taken) > target_s, "the control: a long prompt alone does stretch one"


def test_a_prompt_alone_takes_few_steps_and_a_newcomer_waits_for_one():
    rig = fitted(0.2)
    rig.add("a", [1] * 1200, max_tokens=5, eos=())
    assert sizes_of(rig.plan()) == [599]  # 0.6 s: a step is 1 ms and a token 1 ms
    rig.add("b", [2] * 10, max_tokens=5, eos=())
    rig.commit()
    plan = rig.plan()  # shortest first; the long one gets what the ordinary budget leaves
    assert sizes_of(plan) == [10, 189]
    rig.commit()
    assert sum(sizes_of(rig.plan())) == 199, "b decodes: the target bounds its wait"
    rig.commit()
    rig.run()
    rig.compare()


def test_the_step_is_not_stretched_before_one_was_measured():
    rig = fitted(0.2)
    rig.scheduler._cost.observed = False
    rig.add("a", [1] * 1200, max_tokens=5, eos=())
    assert sizes_of(rig.plan()) == [199]
