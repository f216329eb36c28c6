import pytest

from penstock.core import EngineConfig, InvalidRequest, QueueFull, Request, SamplingParams
from penstock.sched.admission import FIRST_GUESS_TOKENS, Line, OutputLengths, check_ids, check_queue


def test_the_percentile_follows_the_last_outputs():
    lengths = OutputLengths()
    assert lengths.predicted == FIRST_GUESS_TOKENS
    for n in range(1, 101):
        lengths.add(n)
    assert lengths.predicted == 81
    for _ in range(512):
        lengths.add(7)
    assert lengths.predicted == 7


def queue_request(n=1, tokens=10):
    return Request("r", (1,) * tokens, SamplingParams(seed=1, n=n))


def test_how_long_the_line_takes_follows_what_waits_and_what_steps_cost():
    slow, fast = (1e-2, 1e-3, 1e-3, 0.0), (1e-3, 1e-4, 1e-4, 0.0)
    line = Line(8, 1000, 50, slow)
    # 1,000 tokens at 1 ms, and two rounds of 50 steps of 10 + 4 · 1 ms.
    assert line.drain_s(4) == pytest.approx(1.0 + 2 * 50 * 0.014)
    assert line._replace(coefficients=fast).drain_s(4) == pytest.approx(line.drain_s(4) / 10)


@pytest.mark.parametrize("choice", [{"max_waiting": 8}, {"max_waiting_tokens": 1005}])
def test_either_bound_refuses_with_the_seconds_that_the_line_takes(choice):
    config = EngineConfig(2000, 100, (10,), max_running=4, **choice)
    line = Line(8, 1000, 50, (1e-2, 1e-3, 1e-3, 0.0))
    with pytest.raises(QueueFull) as caught:
        check_queue(queue_request(), line, config)
    assert caught.value.retry_after_s == pytest.approx(line.drain_s(4))
    with pytest.raises(QueueFull) as caught:
        check_queue(queue_request(), line._replace(tokens=10**9), config)
    assert caught.value.retry_after_s == 120.0, "clients give up beyond that"
    check_queue(queue_request(), Line(0, 0, 50, line.coefficients), config)


def test_a_prompt_longer_than_the_bound_is_taken_when_nobody_waits():
    config = EngineConfig(2000, 100, (10,), max_waiting_tokens=5)
    check_queue(queue_request(), Line(0, 0, 1, (0.0,) * 4), config)


def test_ids_outside_the_vocabulary_are_refused():
    config = EngineConfig(2000, 2, (10,))
    check_ids(queue_request(), config)
    with pytest.raises(InvalidRequest, match="token id 1 "):
        check_ids(queue_request(), EngineConfig(2000, 1, (10,)))
