"""Sessions: each turn's prompt begins with the whole prompt of the turn before."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from penstock.bench.arrivals import ClosedLoop, Poisson
from penstock.bench.counters import LocalCounter
from penstock.bench.lengths import Fixed, Independent, Uniform
from penstock.bench.options import WorkloadOptions
from penstock.bench.prompts import PromptKind, PromptMaker
from penstock.bench.runner import conversations
from penstock.bench.workloads import named_workload
from penstock.core import ConfigError
from penstock.text import load_tokenizer

BUNDLED = Path(__file__).parents[2] / "src/penstock/models/bundled"


@pytest.fixture(scope="module")
def counter() -> LocalCounter:
    return LocalCounter(load_tokenizer(BUNDLED))


def options(**fields) -> WorkloadOptions:
    base = {
        "arrivals": Poisson(2.0),
        "num_requests": 60,
        "lengths": Independent(Uniform(20, 40), Uniform(4, 12)),
        "next_tokens": Uniform(18, 30),
        "turns": Uniform(1, 6),
        "think_s": 3.0,
        "made_up_answers": True,
    }
    return WorkloadOptions(**base | fields)


@pytest.mark.parametrize("kind", PromptKind)
def test_every_turn_begins_with_all_of_the_turn_before(counter: LocalCounter, kind: PromptKind) -> None:
    workload = named_workload("sessions", options())
    asks = list(workload.asks(PromptMaker(counter, kind)))
    assert len(asks) == 60
    groups = conversations(asks, workload.users)
    assert len({len(group) for group in groups}) > 3
    for group in groups:
        assert [ask.turn for ask in group] == list(range(len(group)))
        for before, after in itertools.pairwise(group):
            assert after.prompt[: len(before.prompt)] == before.prompt
            grown = after.prompt_tokens - before.prompt_tokens
            assert before.max_tokens + 18 <= grown <= before.max_tokens + 30
    if kind is not PromptKind.IDS:
        assert all(counter.count(ask.prompt) == ask.prompt_tokens for ask in asks)
    firsts = [str(group[0].prompt) for group in groups]
    assert len(set(firsts)) == len(firsts)


@pytest.mark.parametrize("kind", [PromptKind.TEXT, PromptKind.CHAT])
def test_with_own_answers_a_later_turn_is_what_is_said_behind_them(counter: LocalCounter, kind: PromptKind) -> None:
    workload = named_workload("sessions", options(made_up_answers=False, turns=Fixed(3)))
    asks = list(workload.asks(PromptMaker(counter, kind)))
    assert len({str(ask.said) for ask in asks if ask.turn}) == sum(ask.turn > 0 for ask in asks) > 30
    for ask in asks:
        assert (ask.said is None) == (ask.turn == 0) and (ask.prompt_tokens is None) == (ask.turn > 0)
        if ask.said is None:
            continue
        assert isinstance(ask.prompt, str | tuple) and ask.prompt[-len(ask.said) :] == ask.said
        text = ask.said if isinstance(ask.said, str) else ask.said[0]["content"]
        assert 4 <= len(counter.ids(text)) <= 32
    assert workload.facts["made_up_answers"] is False


def test_token_ids_need_made_up_answers(counter: LocalCounter) -> None:
    maker = PromptMaker(counter, PromptKind.IDS)
    with pytest.raises(ConfigError, match="can't hold the server's own answers"):
        list(named_workload("sessions", options(made_up_answers=False)).asks(maker))


def test_only_first_turns_have_a_time_and_only_later_ones_a_pause() -> None:
    items = named_workload("sessions", options(num_requests=3000)).items
    assert all((item.arrival_s is None) == (item.turn > 0) for item in items)
    assert all(item.think_s == 0.0 for item in items if item.turn == 0)
    pauses = [item.think_s for item in items if item.turn]
    assert np.mean(pauses) == pytest.approx(3.0, rel=0.1)
    assert np.std(pauses) == pytest.approx(3.0, rel=0.15)


def test_a_session_ends_before_the_turn_that_the_model_could_not_take() -> None:
    free = named_workload("sessions", options(turns=Fixed(5), num_requests=50))
    bound = named_workload("sessions", options(turns=Fixed(5), num_requests=50, max_model_tokens=100))
    assert free.left_out == 0
    assert bound.left_out > 10
    total: dict[int, int] = {}
    for item in bound.items:
        total[item.session] = total.get(item.session, 0) + item.prompt_tokens
        assert total[item.session] + item.max_tokens <= 100


def test_sessions_share_the_prefixes_that_are_asked_for(counter: LocalCounter) -> None:
    workload = named_workload("sessions", options(prefix_tokens=50, num_prefixes=2))
    firsts = [ask.prompt for ask in workload.asks(PromptMaker(counter, PromptKind.IDS)) if ask.turn == 0]
    assert len({prompt[:50] for prompt in firsts}) == 2
    assert len({prompt[:60] for prompt in firsts}) == len(firsts)


def test_a_closed_loop_of_sessions(counter: LocalCounter) -> None:
    workload = named_workload("sessions", options(arrivals=ClosedLoop(4)))
    assert workload.users == 4
    assert all(item.arrival_s is None for item in workload.items)
    assert workload.facts["turns"] == {"kind": "uniform", "low": 1, "high": 6}
