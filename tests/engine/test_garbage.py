"""Full collections come when asked, not in the middle of a step."""

import gc
import weakref

import pytest

from penstock.engine import Garbage
from penstock.engine.garbage import LONGEST_S


class Cycle:
    def __init__(self):
        self.me = self


@pytest.fixture
def fulls():
    """Full collections so far; the interpreter's own settings come back afterwards."""
    threshold, seen = gc.get_threshold(), []

    def note(phase, info):
        if phase == "start" and info["generation"] == 2:
            seen.append(info)

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)
    gc.set_threshold(*threshold)


def churn():
    """Many objects that outlive the young generations: what makes the interpreter collect everything."""
    return [[Cycle()] for _ in range(300_000)]


def test_no_full_collection_starts_by_itself(fulls):
    Garbage(0.0)
    kept = churn()
    assert not fulls and len(kept) == 300_000


def test_by_itself_the_interpreter_would_collect_everything(fulls):
    """The control."""
    gc.set_threshold(700, 10, 10)
    assert churn() and fulls


def test_it_collects_when_told_and_when_it_was_put_off_for_long(fulls):
    garbage = Garbage(5.0)
    assert not garbage.due
    garbage.busy(5.0 + LONGEST_S)
    assert garbage.due and not fulls
    garbage.collect(6.0 + LONGEST_S)
    assert not garbage.due and len(fulls) == 1
    garbage.busy(6.5 + LONGEST_S)
    assert len(fulls) == 1
    garbage.busy(7.0 + 2 * LONGEST_S)
    assert len(fulls) == 2 and not garbage.due


def test_a_collector_that_is_off_stays_off(fulls):
    garbage = Garbage(0.0)
    gc.disable()
    try:
        garbage.collect(1.0)
    finally:
        gc.enable()
    assert not fulls


def test_what_was_hidden_is_collected_once_released(fulls):
    found, cycle = gc.get_threshold(), Cycle()
    watched = weakref.ref(cycle)
    garbage = Garbage(0.0)
    del cycle
    garbage.collect(1.0)
    assert watched() is not None  # the control: hidden, it stays for good
    garbage.release()
    gc.collect()
    assert watched() is None and gc.get_threshold() == found


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_engines_leave_the_interpreter_as_it_was_whichever_ends_first(fulls, order):
    found = gc.get_threshold()
    both = [Garbage(0.0), Garbage(0.0)]
    for index in order:
        both[index].release()
    assert gc.get_threshold() == found
