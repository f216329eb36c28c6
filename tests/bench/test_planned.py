"""Plans become requests: numbered, timed, turn after turn."""

import numpy as np
import pytest

from penstock.bench.arrivals import ClosedLoop, Constant
from penstock.bench.planned import Planned, Workload, timed, users_of
from penstock.bench.prompts import Made, Part, PromptKind
from penstock.core import ConfigError


class Joined:
    """A maker whose prompts are what they were made of."""

    kind = PromptKind.CHAT

    def __init__(self) -> None:
        self.counter = self

    def new_run(self) -> int:
        return 1

    def make(self, parts, after=None, run=0) -> Made:
        text = "".join(f"{part.key}" for part in parts)
        return Made(
            (after.prompt if after else "") + text, (after.tokens if after else 0) + sum(p.tokens for p in parts)
        )

    def count(self, prompt, tools=()) -> int:
        return 100 * len(prompt) + len(tools)


def item(key: int, **fields) -> Planned:
    return Planned(**{"arrival_s": float(key), "parts": (Part((key,), 10),), "max_tokens": 5} | fields)


def workload(*items: Planned, **fields) -> Workload:
    return Workload(name="test", items=items, facts={}, **fields)


def test_requests_are_numbered_and_carry_their_plan() -> None:
    asks = list(workload(item(0), item(1, max_tokens=7), ignore_eos=False).asks(Joined()))
    assert [(ask.id, ask.arrival_s, ask.prompt, ask.prompt_tokens, ask.max_tokens) for ask in asks] == [
        (0, 0.0, "(0,)", 10, 5),
        (1, 1.0, "(1,)", 10, 7),
    ]
    assert not asks[0].ignore_eos


def test_a_turn_goes_on_from_the_one_before_in_its_session_only() -> None:
    asks = list(
        workload(
            item(0, session=4),
            item(1, session=4, turn=1, arrival_s=None, think_s=2.5),
            item(2, session=5),
            item(3, session=5, turn=1, arrival_s=None),
            item(4),
        ).asks(Joined())
    )
    assert [ask.prompt for ask in asks] == ["(0,)", "(0,)(1,)", "(2,)", "(2,)(3,)", "(4,)"]
    assert [ask.prompt_tokens for ask in asks] == [10, 20, 10, 20, 10]
    assert [(ask.session, ask.turn, ask.think_s) for ask in asks][1] == (4, 1, 2.5)


def test_a_turn_without_the_one_before_is_refused() -> None:
    with pytest.raises(ConfigError, match="turn 1 of session 4"):
        list(workload(item(0), item(1, session=4, turn=1)).asks(Joined()))


def test_given_conversations_are_counted_with_their_tools_and_need_the_chat_route() -> None:
    messages = ({"role": "user", "content": "hello"},)
    plan = workload(item(0, given=messages, extra={"tools": [{}, {}]}))
    (ask,) = plan.asks(Joined())
    assert (ask.prompt, ask.prompt_tokens, ask.extra) == (messages, 102, {"tools": [{}, {}]})
    other = Joined()
    other.kind = PromptKind.TEXT
    with pytest.raises(ConfigError, match="chat route"):
        list(plan.asks(other))


def test_only_first_turns_take_times() -> None:
    items = [item(0, session=0), item(1, session=0, turn=1, arrival_s=None), item(2, session=1), item(3)]
    found = timed(items, Constant(2.0), np.random.default_rng(0), None)
    assert [one.arrival_s for one in found] == [0.0, None, 0.5, 1.0]
    assert len(timed(items, Constant(2.0), np.random.default_rng(0), 0.7)) == 3
    assert [one.arrival_s for one in timed(items, ClosedLoop(2), np.random.default_rng(0), 0.1)] == [None] * 4


def test_users_are_those_of_a_closed_loop() -> None:
    assert users_of(ClosedLoop(3)) == 3
    assert users_of(Constant(1.0)) is users_of(None) is None
