"""Who is let in, and what it costs to keep the others in line."""

import sys

import pytest
from tests.sched.rig import Rig

from penstock.core import EngineConfig, KvGroup, Request, RowResult, SamplingParams, StepResult
from penstock.kv import KvManager
from penstock.sched import Scheduler
from penstock.sched.entrance import Entrance

LONG = 100_000


class CountedCalls:
    """Counts calls, of Python and C functions: work that does not depend on the machine."""

    def __enter__(self):
        self.count = 0
        sys.setprofile(self._note)
        return self

    def _note(self, frame, event, arg):
        self.count += event in ("call", "c_call")

    def __exit__(self, *error):
        sys.setprofile(None)


class Crowd:
    """Streams that decode, and long prompts that find no memory beside what is set aside for them."""

    def __init__(self, page_tokens=32):
        config = EngineConfig(
            2 * LONG, 1000, (4000,), page_tokens=page_tokens, max_step_tokens=LONG + 64, step_target_s=1e9
        )
        self.scheduler = Scheduler(config, KvManager((KvGroup("full", (0,), 1),), config))
        self.now = 0.0

    def add(self, id, prompt, max_tokens):
        sampling = SamplingParams(seed=1, max_tokens=max_tokens, ignore_eos=True)
        self.scheduler.add(Request(id, tuple(prompt), sampling), self.now)

    def turn(self):
        plan = self.scheduler.plan(self.now)
        rows = tuple([RowResult((5,)) if row.output.sample else RowResult() for row in plan.rows])
        self.now += 0.001
        self.scheduler.commit(plan, StepResult(plan.step, rows, 0.001), self.now)
        return plan

    def calls(self, turns=40):
        """Calls of each turn."""
        counts = []
        for _ in range(turns):
            with CountedCalls() as calls:
                self.turn()
            counts.append(calls.count)
        return counts


def crowd(waiting, length, hot):
    """Eight streams that decode and `waiting` prompts of that length in line; `hot`: their pages are all cached."""
    made = Crowd()
    prompt = [i % 997 for i in range(length)]
    if hot:
        made.add("before", prompt, 1)
        made.turn()
    made.scheduler._lengths.add(5000)
    for i in range(8):
        made.add(f"runs{i}", [i + 1] * 40, 5000)
    made.turn()
    for i in range(waiting):
        made.add(f"waits{i}", prompt if hot else [i, *prompt], 5000)
    for _ in range(3):
        made.turn()
    assert made.scheduler.num_running == 8 and made.scheduler.num_waiting == waiting
    return made


@pytest.mark.parametrize("hot", [False, True])
def test_long_prompts_without_memory_cost_a_plan_nearly_nothing(hot):
    alone = crowd(0, LONG, hot).calls()
    beside = crowd(10, LONG, hot).calls()
    # No page is walked through, whatever the prompts' length: a comparison, and that for the first in line only.
    assert max(b - a for a, b in zip(alone, beside, strict=True)) <= 60


def test_without_the_memory_of_the_refusal_every_plan_walks_through_the_prompt(monkeypatch):
    monkeypatch.setattr(Entrance, "_hopeless", lambda self, draft, job: False)
    assert min(crowd(10, LONG, hot=True).calls(5)) > LONG // 32


def test_a_refused_prompt_enters_as_soon_as_memory_allows():
    made = crowd(1, LONG, hot=True)
    for i in range(8):
        made.scheduler.cancel(f"runs{i}")
    plan = made.turn()
    assert len(plan.rows) == 1 and made.scheduler.num_waiting == 0
    made.scheduler.kv.check()


def test_a_prompt_refused_cold_enters_once_others_hold_its_pages():
    rig = Rig(pages=(14,), max_model_tokens=60, max_step_tokens=64, prefix_cache=True)
    rig.scheduler._lengths.add(8)
    rig.add("first", [1] * 40, max_tokens=8, eos=())
    while rig.sequences[0].num_computed < 40:
        rig.turn()
    # 14 pages: 12 are held or set aside for the first; alone the second would need as many.
    rig.add("second", [1] * 40 + [2], max_tokens=7, eos=())
    rig.turn()
    assert rig.scheduler.num_running == 2 and rig.sequences[1].num_cached == 40
    rig.run()
    rig.compare()


def inheritance(cache):
    """A long prompt computes a prefix; one that waits for it, and one of middle length, come after it."""
    rig = Rig(pages=(100,), max_model_tokens=80, max_step_tokens=4, prefix_cache=cache, age_tokens_per_s=1.0)
    rig.add("long", [1] * 32 + [2] * 24, max_tokens=1, eos=())
    rig.turn()
    rig.add("waiter", [1] * 32 + [3], max_tokens=1, eos=())
    rig.add("middle", [4] * 20, max_tokens=1, eos=())
    rig.run()
    rig.compare()
    return rig.order


def test_who_computes_a_page_goes_no_later_than_who_waits_for_it():
    # 52 tokens left would rank behind 20, but the waiter has 1 left and lends its rank until its prefix is there.
    assert inheritance(cache=True) == [("waiter", 0), ("middle", 0), ("long", 0)]


def test_without_a_shared_page_nothing_is_inherited():
    assert inheritance(cache=False) == [("middle", 0), ("waiter", 0), ("long", 0)]
