"""Each warning, on a run that deserves it and on one that does not."""

from dataclasses import replace
from typing import Any

import pytest

from penstock.bench.client import Endpoint
from penstock.bench.health import Health, Lag
from penstock.bench.pitfalls import CHECKS, Facts, pitfalls
from penstock.bench.records import Ask, Counted, Outcome, Seen, Window
from penstock.bench.runner import RunPlan, RunResult

PLAN = RunPlan(Endpoint("http://h", "m"))
QUIET = Health(Lag(10, 0.0, 0.001, 0.001), Lag(10, 0.0, 0.001, 0.001), 0.1)


def seen(id: int, **fields: Any) -> Seen:
    given: dict[str, Any] = {
        "sent_s": float(id),
        "chunks_s": [id + 0.1, id + 0.2],
        "finish_s": id + 0.2,
        "end_s": id + 0.2,
        "outcome": Outcome.OK,
        "prompt_tokens": 10,
        "cached_tokens": 0,
        "output_tokens": 2,
        "counted": Counted.USAGE,
    }
    return Seen(id, float(id), **(given | fields))


def facts(
    changed: dict[int, dict[str, Any]] | None = None,
    prompts: dict[int, str] | None = None,
    window: Window | None = None,
    shared: bool = False,
    **parts: Any,
) -> Facts:
    """Twenty good requests, one a second, counted from the tenth second to the last arrival; changed as asked."""
    asks = {id: Ask(id, float(id), (prompts or {}).get(id, f"prompt {id}"), 10, 2) for id in range(20)}
    requests = tuple(seen(id, **(changed or {}).get(id, {})) for id in range(20))
    result = RunResult(requests, parts.get("health", QUIET), parts.get("invalid", ()), {}, 20.0)
    return Facts(parts.get("plan", PLAN), asks, result, window or Window(10.0, 19.5), shared)


EVERY = range(20)
CASES: list[tuple[int, Facts, str]] = [
    (1, facts(plan=replace(PLAN, users=4)), "closed loop of 4 users"),
    (2, facts(plan=replace(PLAN, max_in_flight=3), health=replace(QUIET, num_held=7)), "max_in_flight 3 held 7"),
    (3, facts({15: {"output_tokens": 9}}, prompts=None), "tokens came in 20 chunks"),
    (3, facts({15: {"output_tokens": None}}), "1 of 10 answers have no token count"),
    (5, facts(health=replace(QUIET, send_lag=Lag(10, 0.0, 0.009, 0.009))), "up to 9.0 ms"),
    (5, facts(invalid=("sent late.",)), "invalid: sent late."),
    (
        6,
        facts({id: {"prompt_tokens": 23} for id in EVERY}),
        "10 of 10 prompts have another length than was made: +13",
    ),
    (7, facts(prompts={id: "same" for id in EVERY}), "19 prompts were sent before"),
    (7, facts(prompts={0: "warm-up", 11: "warm-up"}), "1 prompts were sent before"),
    (7, facts({id: {"cached_tokens": 5} for id in EVERY}), "50% of the prompt tokens came from the server's cache"),
    (8, facts({12: {"output_tokens": 1}}), "1 of 10 answers are not as long as asked"),
    (
        10,
        facts({12: {"outcome": Outcome.FAILED}, 13: {"outcome": Outcome.TIMEOUT}}),
        "2 of 10 requests did not",
    ),
    (10, facts({12: {"outcome": Outcome.REFUSED, "error": "full"}}), "(1 refused, most often 'full')"),
    (11, facts(window=Window(0.0, 19.5)), "the ramp (nothing arrived before it) in it"),
    (11, facts(window=Window(5.0, 60.0)), "the drain in it"),
    (13, facts({id: {"end_s": 100.0} for id in range(8, 20)}), "10 requests arrived in the window and 0 ended"),
]


@pytest.mark.parametrize(("number", "case", "words"), CASES, ids=lambda value: str(value)[:30])
def test_a_pitfall_is_told(number: int, case: Facts, words: str) -> None:
    texts = [one.text for one in pitfalls(case) if one.number == number]
    assert any(words in text for text in texts), texts


def test_a_clean_run_has_none() -> None:
    assert pitfalls(facts()) == ()


def test_every_check_has_a_case() -> None:
    told = {check for number, check in CHECKS for _, case, _ in CASES if check(case) is not None}
    assert told == {check for _, check in CHECKS}


def test_sharing_on_purpose_is_no_pitfall() -> None:
    assert pitfalls(facts(prompts={id: "same" for id in EVERY}, shared=True)) == ()
    assert pitfalls(facts({id: {"cached_tokens": 5} for id in EVERY}, shared=True)) == ()


def test_a_closed_loop_never_falls_behind() -> None:
    late = {id: {"end_s": 100.0} for id in range(8, 20)}
    assert [one.number for one in pitfalls(facts(late, plan=replace(PLAN, users=4)))] == [1]


def test_natural_ends_have_any_length() -> None:
    case = facts({12: {"output_tokens": 1}})
    natural = {id: replace(ask, ignore_eos=False) for id, ask in case.asks.items()}
    assert pitfalls(replace(case, asks=natural)) == ()
