"""Counting in and out, and the judgement of an engine's health."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.api import ApiSettings, create_app
from penstock.api.state import Sources
from penstock.core import ConfigError, Draining, ModelNotFound, Overloaded, QueueFull, limits


class Hand:
    """A clock that stands where it is put."""

    def __init__(self):
        self.at = 100.0

    def now(self):
        return self.at


@pytest.fixture
def clock():
    return Hand()


@pytest.fixture
def state(served, clock):
    settings = ApiSettings(stall_s=10.0, grace_s=5.0, max_body_bytes_in_flight=100)
    state = create_app({"toy": served}, settings, Sources(clock)).state.api
    yield state
    state.workers.close()


def test_names_and_aliases_lead_to_the_model(state, served):
    assert list(state.names) == ["toy", "gpt-toy"]
    assert state.find_model("gpt-toy") is served
    with pytest.raises(ModelNotFound) as one, state.admitted():
        state.find_model("other")
    with pytest.raises(ModelNotFound) as two:
        state.find_model("../../etc")
    assert str(one.value) == str(two.value)
    assert state.live == 0


def test_two_models_of_one_name_are_refused(served):
    with pytest.raises(ConfigError, match="one name"):
        create_app({"a": served, "b": replace(served, name="gpt-toy")}, ApiSettings())
    with pytest.raises(ConfigError, match="no model"):
        create_app({}, ApiSettings())


def test_quiet_is_exactly_when_nothing_is_live(state):
    with state.admitted():
        with state.admitted():
            assert state.live == 2
        assert not state.quiet.is_set()
    assert state.quiet.is_set()


def test_a_body_that_does_not_fit_is_not_counted(state):
    state.hold_body(60)
    with pytest.raises(Overloaded):
        state.hold_body(41)
    state.hold_body(40)
    state.hold_body(-100)
    state.hold_body(100)


def test_only_so_many_are_prepared(state):
    holds = [state.preparing() for _ in range(limits.MAX_PREPARING)]
    for hold in holds:
        hold.__enter__()
    with pytest.raises(QueueFull) as caught, state.admitted():
        pass
    assert caught.value.retry_after_s
    holds.pop().__exit__(None, None, None)
    with state.admitted():
        assert state.live == 1


def test_draining_refuses_with_the_time_that_is_left(state, clock, served):
    state.begin_drain()
    clock.at += 2.0
    with pytest.raises(Draining) as caught, state.admitted():
        pass
    assert caught.value.retry_after_s == 3.0
    clock.at += 60.0
    assert state.draining_error().retry_after_s == 1.0
    assert served.client.draining


def test_an_engine_is_stalled_only_while_it_has_work_and_makes_no_step(state, clock, served):
    def trouble():
        snapshot = replace(served.client.snapshot(), last_progress_s=50.0, dead=served.client.dead)
        return state.trouble(served, snapshot)

    clock.at = 1000.0
    assert trouble() is None  # silent because idle
    with state.working(served):
        clock.at += 9.0
        assert trouble() is None  # the work has just come
        clock.at += 2.0
        assert trouble() == "stalled"
    assert trouble() is None
    served.client.dead = True
    assert trouble() == "dead"
