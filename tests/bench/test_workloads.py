"""Workloads by name: the same again with their seed, bounded, and nothing left out in silence."""

from collections import Counter
from pathlib import Path

import pytest

from penstock.bench.arrivals import ClosedLoop, Constant, Poisson
from penstock.bench.counters import LocalCounter
from penstock.bench.lengths import Fixed, Independent, Uniform
from penstock.bench.options import WorkloadOptions
from penstock.bench.prompts import PromptKind, PromptMaker
from penstock.bench.runner import conversations
from penstock.bench.workloads import named_workload
from penstock.core import ConfigError
from penstock.text import load_tokenizer

BUNDLED = Path(__file__).parents[2] / "src/penstock/models/bundled"
SHORT = Independent(Uniform(12, 40), Uniform(1, 9))


@pytest.fixture(scope="module")
def counter() -> LocalCounter:
    return LocalCounter(load_tokenizer(BUNDLED))


def options(**fields) -> WorkloadOptions:
    return WorkloadOptions(**{"arrivals": Poisson(5.0), "num_requests": 40, "lengths": SHORT} | fields)


def test_random_requests_are_as_many_as_long_and_as_different_as_asked(counter: LocalCounter) -> None:
    workload = named_workload("random", options())
    asks = list(workload.asks(PromptMaker(counter)))
    assert [ask.id for ask in asks] == list(range(40))
    assert all(counter.count(ask.prompt) == ask.prompt_tokens and 12 <= ask.prompt_tokens <= 40 for ask in asks)
    assert {ask.max_tokens for ask in asks} == set(range(1, 10))
    assert len({ask.prompt for ask in asks}) == 40
    assert len({ask.prompt[:20] for ask in asks}) == 40
    assert not workload.shared
    assert len(conversations(asks, workload.users)) == 40


def test_the_seed_gives_it_all_again_and_another_does_not(counter: LocalCounter) -> None:
    first, again, other = (
        list(named_workload("random", options(seed=seed)).asks(PromptMaker(counter))) for seed in (1, 1, 2)
    )
    assert first == again
    assert not {ask.prompt for ask in first} & {ask.prompt for ask in other}
    assert first[0].arrival_s != other[0].arrival_s


def test_one_choice_does_not_move_the_others() -> None:
    base = named_workload("random", options())
    slower = named_workload("random", options(arrivals=Poisson(1.0)))
    assert [item.parts for item in base.items] == [item.parts for item in slower.items]
    assert slower.items[7].arrival_s == pytest.approx(5 * base.items[7].arrival_s)
    prefixed = named_workload("random", options(prefix_tokens=64, num_prefixes=3))
    assert [item.parts[-1] for item in prefixed.items] == [item.parts[0] for item in base.items]


def test_one_maker_gives_a_second_run_other_prompts_even_with_the_same_seed(counter: LocalCounter) -> None:
    maker = PromptMaker(counter)
    workload = named_workload("random", options())
    runs = [{ask.prompt for ask in workload.asks(maker)} for _ in range(3)]
    assert sum(map(len, runs)) == len(set.union(*runs))


def test_a_second_run_of_one_maker_shares_no_prefix_with_the_first_but_has_its_lengths(counter: LocalCounter) -> None:
    """Else the second rate of a sweep would be measured warm."""
    maker = PromptMaker(counter, PromptKind.IDS)
    workload = named_workload("random", options(prefix_tokens=100, num_prefixes=2))
    runs = [list(workload.asks(maker)) for _ in range(2)]
    prefixes = [{ask.prompt[:12] for ask in run} for run in runs]
    assert [len(one) for one in prefixes] == [2, 2]
    assert not prefixes[0] & prefixes[1]
    assert [ask.prompt_tokens for ask in runs[0]] == [ask.prompt_tokens for ask in runs[1]]
    other = PromptMaker(counter, PromptKind.IDS)
    assert [list(workload.asks(other)) for _ in range(2)] == runs  # another server's maker makes the same


def test_prompts_are_used_again_only_when_asked(counter: LocalCounter) -> None:
    fixed = Independent(Fixed(20), Fixed(1))
    workload = named_workload("random", options(distinct=8, lengths=fixed))
    found = Counter(ask.prompt for ask in workload.asks(PromptMaker(counter)))
    assert sorted(found.values()) == [5] * 8
    assert workload.shared


def test_prefixes_are_shared_to_the_token(counter: LocalCounter) -> None:
    workload = named_workload("random", options(prefix_tokens=100, num_prefixes=3))
    asks = list(workload.asks(PromptMaker(counter, PromptKind.IDS)))
    assert len({ask.prompt[:100] for ask in asks}) == 3
    assert len({ask.prompt[:108] for ask in asks}) == 40
    assert all(112 <= len(ask.prompt) <= 140 for ask in asks)
    assert workload.shared


def test_time_ends_it_where_no_number_does() -> None:
    workload = named_workload("random", options(arrivals=Constant(10.0), num_requests=None, duration_s=2.0))
    assert len(workload.items) == 20
    assert len(named_workload("random", options(arrivals=Constant(10.0), duration_s=2.0)).items) == 20


def test_a_closed_loop_says_its_users(counter: LocalCounter) -> None:
    workload = named_workload("random", options(arrivals=ClosedLoop(3)))
    asks = list(workload.asks(PromptMaker(counter, PromptKind.IDS)))
    assert workload.users == 3
    assert all(ask.arrival_s is None for ask in asks)
    assert len(conversations(asks, workload.users)) == 40


def test_when_it_ends_is_known_before_it_runs() -> None:
    closed = named_workload("random", options(arrivals=ClosedLoop(2), num_requests=3, duration_s=9.0))
    assert (closed.stop_s, closed.ends_s) == (9.0, 9.0)
    assert named_workload("random", options(arrivals=ClosedLoop(2), num_requests=3)).ends_s is None
    opened = named_workload("random", options(arrivals=Constant(2.0), num_requests=5))
    assert opened.stop_s is None and opened.ends_s == max(item.arrival_s or 0.0 for item in opened.items) > 1.0
    assert named_workload("sessions", options(arrivals=Constant(2.0), num_requests=5)).ends_s is None


def test_what_does_not_fit_is_left_out_and_counted_and_the_rate_stays() -> None:
    workload = named_workload("random", options(max_model_tokens=30))
    assert len(workload.items) == 40
    assert workload.left_out > 10
    assert all(item.prompt_tokens + item.max_tokens <= 30 for item in workload.items)
    assert [item.arrival_s for item in workload.items] == [
        item.arrival_s for item in named_workload("random", options()).items
    ]


def test_a_record_says_what_it_was() -> None:
    facts = named_workload("random", options(prefix_tokens=3)).facts
    assert facts["arrivals"] == {"kind": "poisson", "rate_rps": 5.0}
    assert facts["prompt_tokens"] == {"kind": "uniform", "low": 12, "high": 40}
    assert (facts["seed"], facts["num_requests"], facts["prefix_tokens"]) == (0, 40, 3)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("none", {}, "no workload"),
        ("random", {"arrivals": None}, "when requests arrive"),
        ("random", {"num_requests": None}, "how many requests"),
        ("random", {"num_requests": None, "duration_s": 5.0, "arrivals": ClosedLoop(2)}, "how many requests"),
        (
            "random",
            {"max_model_tokens": 5, "duration_s": 1.0, "num_requests": 5},
            r"has no requests: .* has 12 tokens and asks for 1, together 13; the model takes 5\.",
        ),
        ("random", {"duration_s": 1e-3, "arrivals": Poisson(1e-3)}, "has no requests"),
        ("azure", {}, "0 files"),
        ("servegen", {"files": (Path("a"),)}, "1 files"),
        ("mooncake", {"files": (Path("/nowhere/a.jsonl"),)}, "no such file"),
    ],
)
def test_options_that_do_not_go_together_are_refused(name: str, fields: dict, words: str, monkeypatch) -> None:
    monkeypatch.setattr("penstock.bench.workloads.MAX_BENCH_REQUESTS", 1000)
    with pytest.raises(ConfigError, match=words) as refused:
        named_workload(name, options(**fields))
    assert refused.value.hint
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_requests": 0},
        {"duration_s": float("nan")},
        {"seed": -1},
        {"distinct": 0},
        {"prefix_tokens": -1},
        {"think_s": -1.0},
        {"max_model_tokens": 1},
        {"num_requests": 10**9},
        {"min_prompt_tokens": 0},
    ],
    ids=str,
)
def test_numbers_out_of_bounds_are_refused(fields: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        WorkloadOptions(**fields)
