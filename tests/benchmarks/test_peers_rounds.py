"""Rounds interleave, rotate, keep failures with their reason, and give slow contenders fewer turns."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.peers.child import PeerFailed
from benchmarks.peers.rounds import Pace, Unit, measure, rotated, turns, units_of
from benchmarks.peers.works import CONTENDERS, QUICK_WORKS, WORKS, Contender, Work, chosen, decode, room


def contender(name: str, variants: tuple[str, ...] = ("",), most: int = 32) -> Contender:
    return Contender(name, "driver", "q4_0", "4 bit", "q4_0", None, variants, most)


A, B, C = contender("a"), contender("b"), contender("c")
DECODE, PREFILL = decode(1, 128, 8), Work("prefill-64", "prefill", 1, 64)


class Clock:
    """Seconds that only a peer's answer takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Peers:
    """Answers by name: seconds of an order, by variant, or an error."""

    def __init__(self, clock: Clock, seconds: dict[str, Any]) -> None:
        self.clock, self.seconds, self.asked = clock, seconds, []

    def __call__(self, contender: Contender, order: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((contender.peer, order["variant"], order["seed"]))
        took = self.seconds[contender.peer]
        took = took[order["variant"]] if isinstance(took, dict) else took
        if isinstance(took, str):
            raise PeerFailed(took)
        self.clock.now += took
        found = {"tokens": 10, "seconds": took}
        return found | ({"prefill": {"tokens": 64, "seconds": 2 * took}} if order.get("streams") == 1 else {})


def run(units: list[Unit], seconds: dict[str, Any], rounds: int = 5, budget_s: float = 1e9) -> Peers:
    clock = Clock()
    peers = Peers(clock, seconds)
    measure(units, Pace(rounds, budget_s, clock), peers, lambda line: None)
    return peers


def test_every_round_has_all_contenders_and_begins_with_another() -> None:
    peers = run(units_of([A, B, C], [DECODE]), {"a": 1, "b": 1, "c": 1}, rounds=3)
    assert [name for name, _, _ in peers.asked] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [seed for _, _, seed in peers.asked] == [1, 1, 1, 2, 2, 2, 3, 3, 3]  # prompts are new each round


def test_a_work_is_done_by_all_before_the_next_begins() -> None:
    order = [(unit.work.name, unit.contender.peer) for unit in turns(units_of([A, B], [DECODE, PREFILL]), 1)]
    assert order == [("decode-1", "b"), ("decode-1", "a"), ("prefill-64", "b"), ("prefill-64", "a")]


def test_a_failure_is_kept_and_the_others_go_on() -> None:
    units = units_of([A, B], [DECODE])
    peers = run(units, {"a": "no memory", "b": 2.0}, rounds=3)
    assert units[0].error == "no memory" and not units[0].seconds
    assert units[1].rates("") == [5.0] * 3
    assert [name for name, _, _ in peers.asked].count("a") == 1


def test_another_error_than_a_peers_is_not_swallowed() -> None:
    def broken(contender: Contender, order: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        measure(units_of([A], [DECODE]), Pace(1, 1.0, Clock()), broken, lambda line: None)


def test_slow_contenders_get_fewer_rounds_but_one() -> None:
    units = units_of([A, B], [DECODE])
    run(units, {"a": 30.0, "b": 60.0}, budget_s=65.0)
    assert [len(unit.seconds[""]) for unit in units] == [2, 1]


def test_variants_are_tried_once_then_the_fastest_goes_on() -> None:
    both = contender("a", ("flash", "no flash"))
    units = units_of([both], [DECODE])
    run(units, {"a": {"flash": 4.0, "no flash": 2.0}})
    assert {name: len(seconds) for name, seconds in units[0].seconds.items()} == {"flash": 1, "no flash": 5}
    assert units[0].best == "no flash"


def test_a_prompt_within_keeps_its_own_fastest_variant() -> None:
    tied = Work("prefill-128", "prefill", 1, 128, within=DECODE.name)
    units = units_of([contender("a", ("flash", "no flash", "other"))], [tied, DECODE])

    def ask(contender: Contender, order: dict[str, Any]) -> dict[str, Any]:
        decoding, reading = {"flash": (4.0, 1.0), "no flash": (1.0, 4.0), "other": (9.0, 9.0)}[order["variant"]]
        return {"tokens": 8, "seconds": decoding, "prefill": {"tokens": 128, "seconds": reading}}

    measure(units, Pace(3, 1e9, Clock()), ask, lambda line: None)
    assert [(unit.best, unit.rates(unit.best)) for unit in units] == [
        ("flash", [128.0] * 3),
        ("no flash", [8.0] * 3),
    ]
    assert len(units[1].seconds["other"]) == 1


def test_best_is_never_a_variant_that_was_given_up_after_a_lucky_round() -> None:
    unit = Unit(contender("a", ("flash", "no flash")), DECODE)
    unit.add("flash", 10, 0.1)
    for _ in range(5):
        unit.add("no flash", 10, 1.0)
    assert unit.best == "no flash"


def test_a_prompt_that_another_work_reads_comes_with_it() -> None:
    tied = Work("prefill-128", "prefill", 1, 128, within=DECODE.name)
    alone, both = units_of([A], [tied]), units_of([A, B], [tied, DECODE])
    assert [name for name, _, _ in run(alone, {"a": 4.0}, rounds=1).asked] == ["a"]
    asked = run(both, {"a": 4.0, "b": "gone"}, rounds=2).asked
    assert [name for name, _, _ in asked] == ["a", "b", "a"]
    assert both[0].work is tied and both[0].rates("") == [8.0, 8.0]  # 64 tokens in twice four seconds
    assert alone[0].rates("") == [2.5]
    assert both[1].error == both[3].error == "gone"


def test_who_does_not_do_a_work_is_not_asked() -> None:
    alone = contender("a", most=1)
    assert [unit.work.name for unit in units_of([alone], [DECODE, decode(8, 128, 8)])] == ["decode-1"]


def test_rotation_of_nothing_is_nothing() -> None:
    assert rotated([], 3) == []


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], ("decode-1", "decode-16", "prefill")),
        (["decode-1"], ("decode-1",)),
        (["decode"], ("decode-1", "decode-16")),
        (["PRE", "decode-16"], ("decode-16", "prefill")),
    ],
)
def test_names_are_chosen_whole_or_by_their_beginning(names: list[str], found: tuple[str, ...]) -> None:
    assert chosen(names, ("decode-1", "decode-16", "prefill"), "work") == found


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"work 'decod3' is unknown; known are a, b\."):
        chosen(["decod3"], ("a", "b"), "work")


def test_the_matrix_holds_together() -> None:
    assert len({contender.name for contender in CONTENDERS}) == len(CONTENDERS)
    assert [work.name for work in WORKS] == [work.name for work in QUICK_WORKS]
    for work in WORKS:
        assert any(contender.does(work) for contender in CONTENDERS if contender.peer != "penstock")
        assert all(contender.does(work) for contender in CONTENDERS if contender.peer == "penstock")


def test_room_is_enough_for_every_work() -> None:
    found = room(WORKS)
    for work in WORKS:
        assert found["max_streams"] >= work.streams
        assert found["max_tokens"] > work.tokens + work.steps
        assert found["total_tokens"] > work.streams * (work.tokens + work.steps)
