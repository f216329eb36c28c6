"""Slots, memory that runs out, and that it always goes on."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sched.rig import FULL, KINDS, Rig

from penstock.core import FinishReason, KvGroup
from penstock.sched import policy

FAR = KvGroup("far", (3,), 1, window=20)
GROUPS = st.sampled_from(KINDS)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    depth=st.sampled_from((1, 2)),
    groups=GROUPS,
    worth=st.integers(2, 4),
    cache=st.booleans(),
    drafts=st.sampled_from((0, 2)),
)
def test_thirty_requests_get_through_the_memory_of_two_to_four(data, depth, groups, worth, cache, drafts):
    # 24 tokens a sequence at most: 6 pages of 4; outputs are expected to be short, so that far too many are let in.
    pages = (6 * worth,) * len(groups)
    rig = Rig(groups, depth, drafts=drafts, pages=pages, max_model_tokens=24, max_running=12, prefix_cache=cache)
    if not rig.kv.fits(24):
        return
    rig.scheduler._lengths.add(1)
    for i in range(30):
        length = data.draw(st.integers(1, 20))
        n = data.draw(st.sampled_from((1, 1, 1, 2)))
        rig.add(f"r{i}", [i % 3] * (length // 2) + [i] * (length - length // 2), n=n, max_tokens=24 - length, eos=())
        for _ in range(data.draw(st.integers(0, 2))):
            rig.turn()
            rig.check()
    rig.run()
    rig.compare()
    assert {finish for finish, _ in rig.ends.values()} == {FinishReason.LENGTH}
    assert max(s.num_preemptions for s in rig.sequences) <= 2


def crowded(max_preemptions=2):
    rig = Rig(pages=(12,), max_model_tokens=24, max_running=12, prefix_cache=False, max_preemptions=max_preemptions)
    rig.scheduler._lengths.add(1)
    for i in range(8):
        rig.add(f"r{i}", [i] * 4, max_tokens=20, eos=())
    return rig


def test_without_preemption_the_same_crowd_is_stuck(monkeypatch):
    monkeypatch.setattr("penstock.sched.roster.choose_victim", lambda running, requester, most: None)
    rig = crowded()
    while rig.turn():
        pass
    assert rig.scheduler.num_running and len(rig.ends) < 8


def test_the_newest_gives_way_and_what_it_lost_is_logged():
    rig = crowded()
    while not rig.scheduler.num_preemptions:
        rig.turn()
    running = [s for s in rig.sequences if s.slot >= 0]
    preempted = [s for s in rig.sequences if s.num_preemptions]
    assert min(s.id for s in preempted) > max(s.id for s in running)
    assert all(s.tables == () for s in preempted)
    log = rig.scheduler.take_preemptions()
    assert {(entry.request_id, entry.num_preemptions) for entry in log} == {(s.request.id, 1) for s in preempted}
    assert all(4 <= entry.cost_tokens <= 24 for entry in log)
    assert rig.scheduler.take_preemptions() == ()
    rig.run()
    rig.compare()


def test_a_job_preempted_too_often_enters_with_everything_set_aside():
    reserved = []
    rig = crowded(max_preemptions=1)
    reserve = rig.kv.reserve
    rig.kv.reserve = lambda sequence, tokens: (
        reserved.append((sequence.num_preemptions, tokens)),
        reserve(sequence, tokens),
    )
    rig.run()
    assert {tokens for times, tokens in reserved if times} == {24}
    assert min(tokens for times, tokens in reserved if not times) < 24


def test_a_slot_is_named_as_released_once_before_it_is_used_again():
    rig = Rig(max_running=1)
    rig.add("a", [1] * 3, max_tokens=2, eos=())
    rig.add("b", [2] * 3, max_tokens=2, eos=())
    released, opened = [], []
    while (plan := rig.plan()) is not None:
        released.append(plan.released_slots)
        opened.append([o.slot for o in plan.opened])
        rig.commit()
    assert opened == [[0], [], [0], []] and released == [(), (), (0,), ()]


def test_the_protected_are_never_chosen():
    class Fake:
        def __init__(self, order, times):
            self.order, self.doomed, self.ended = order, False, False
            self.sequence = self
            self.num_preemptions = times

    old, new, protected = Fake(0, 0), Fake(1, 1), Fake(2, 2)
    jobs = [old, new, protected]
    assert policy.choose_victim(jobs, old, 2) is new
    assert policy.choose_victim(jobs, new, 2) is None, "an ordinary job takes from newer ones only"
    assert policy.choose_victim(jobs, protected, 2) is new


@pytest.mark.parametrize("groups", [(FAR,), (FULL, FAR)])
def test_samples_that_share_a_window_leave_it_and_need_pages_of_their_own(groups):
    # Both are protected from the start: what is set aside must suffice. Of FAR one sequence holds 8 pages, two hold 16.
    choices = dict(max_model_tokens=90, max_step_tokens=4, max_running=2, max_preemptions=0)
    rig = Rig(groups, pages=(40, 11)[-len(groups) :], **choices)
    rig.add("twins", range(30), n=2, max_tokens=50, eos=())
    rig.add("first", range(30), max_tokens=50, eos=())
    rig.run()
    rig.compare()
