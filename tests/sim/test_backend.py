import pytest

from penstock.core import (
    NO_OUTPUT,
    SAMPLE,
    ConfigError,
    FutureToken,
    KvGroup,
    Opened,
    Row,
    RowResult,
    SamplingParams,
    StepPlan,
    StepResult,
)
from penstock.sim import CostBackend, Costs, VirtualClock

FULL = KvGroup("full", (0,), 320)
WINDOW = KvGroup("window", (1,), 32, 16)


def make(costs=None, groups=(FULL,)):
    clock = VirtualClock()
    return CostBackend(groups, 32, costs or Costs(1000.0, 10.0, 100.0, 1000.0, 0.5), clock, 97), clock


def row(slot, start, tokens, output=SAMPLE):
    return Row(slot, start, tokens, ((),), 0, output)


def opened(slot, seed, sample=0):
    return Opened(slot, slot, sample, seed, (1,), 1, SamplingParams(), (), None, None)


def test_the_roofline_by_hand():
    backend, _ = make()
    decode = StepPlan(0, (), (row(0, 99, (1,)),), (), ())
    assert backend.duration_s(decode) == pytest.approx(0.5 + (1000 + 100 * 10) / 1000)
    prefill = StepPlan(0, (), (row(0, 0, (1,) * 100, NO_OUTPUT),), (), ())
    assert backend.duration_s(prefill) == pytest.approx(0.5 + 100 * 10 / 100)
    windowed, _ = make(groups=(FULL, WINDOW))
    assert windowed.duration_s(decode) == pytest.approx(0.5 + (1000 + 100 * 10 + 16 * 1) / 1000)


def test_time_passes_step_after_step():
    backend, clock = make(Costs(0.0, 1.0, 1.0, 1.0))
    first = backend.submit(StepPlan(0, (opened(0, 5),), (row(0, 0, (1, 2, 3), NO_OUTPUT),), (), ()))
    second = backend.submit(StepPlan(1, (), (row(0, 3, (1,), NO_OUTPUT),), (), ()))
    assert first.step == 0 and backend.finish(first, None).duration_s == 30.0 and clock.now() == 30.0
    assert backend.finish(second, None).duration_s == 40.0 and clock.now() == 70.0


def test_tokens_depend_on_seed_sample_and_position_alone():
    def tokens(slot, other_slot, ahead):
        backend, _ = make()
        backend.submit(StepPlan(0, (opened(slot, 5), opened(other_slot, 6)), (), (), ()))
        token = FutureToken(slot, 0) if ahead else (1,)
        plan = StepPlan(1, (), (row(other_slot, 9, (1,)), row(slot, 9, token), row(slot, 10, (1,), NO_OUTPUT)), (), ())
        return backend.finish(backend.submit(plan), None).rows

    rows = tokens(0, 1, False)
    assert rows == tokens(3, 7, True)
    assert rows[0].tokens != rows[1].tokens and rows[2].tokens == ()
    assert all(0 <= token < 97 for item in rows for token in item.tokens)


def test_a_record_is_handed_out_and_must_fit():
    backend, clock = make()
    plan = StepPlan(4, (opened(0, 1),), (row(0, 0, (1,)),), (), ())
    result = StepResult(4, (RowResult((42,)),), 9.0)
    backend.record.append((123.0, result))
    assert backend.finish(backend.submit(plan), None) is result and clock.now() == 123.0
    backend.record.append((124.0, result._replace(step=5)))
    with pytest.raises(ConfigError, match="step 5"):
        backend.finish(backend.submit(plan), None)
