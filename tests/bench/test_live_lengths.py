"""A real server's usage says that every prompt is as long as it was made, and its cache what prompts share."""

from collections.abc import Iterator

import pytest
from tests.live_server import LiveServer

from penstock.bench.arrivals import ClosedLoop
from penstock.bench.client import Endpoint, Route
from penstock.bench.counters import ServerCounter
from penstock.bench.lengths import Fixed, Independent, Uniform
from penstock.bench.options import WorkloadOptions
from penstock.bench.processes import run
from penstock.bench.prompts import PromptKind, PromptMaker
from penstock.bench.records import Ask, Outcome, Seen
from penstock.bench.runner import RunPlan
from penstock.bench.workloads import named_workload

KINDS = [(PromptKind.TEXT, Route.COMPLETIONS), (PromptKind.IDS, Route.COMPLETIONS), (PromptKind.CHAT, Route.CHAT)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with LiveServer() as server:
        yield server.url


def sent(endpoint: Endpoint, asks: list[Ask]) -> list[tuple[Ask, Seen]]:
    seen = run(RunPlan(endpoint, users=2), asks).seen
    assert [one.outcome for one in seen] == [Outcome.OK] * len(asks)
    return list(zip(asks, seen, strict=True))


@pytest.mark.parametrize(("kind", "route"), KINDS)
@pytest.mark.parametrize("name", ["random", "sessions"])
def test_the_server_s_usage_is_what_was_asked(url: str, kind: PromptKind, route: Route, name: str) -> None:
    endpoint = Endpoint(url, "penstock-bundled", route=route)
    options = WorkloadOptions(
        arrivals=ClosedLoop(2),
        num_requests=12,
        lengths=Independent(Uniform(20, 120), Fixed(3)),
        next_tokens=Uniform(20, 40),
        max_model_tokens=512,
        made_up_answers=True,
        seed=11,
    )
    with ServerCounter(endpoint) as counter:
        asks = list(named_workload(name, options).asks(PromptMaker(counter, kind, seed=len(name))))
    pairs = sent(endpoint, asks)
    assert [seen.prompt_tokens for _, seen in pairs] == [ask.prompt_tokens for ask in asks]
    assert {seen.output_tokens for _, seen in pairs} == {3}
    again = {ask.id for ask in asks if ask.turn}
    assert all((seen.cached_tokens or 0) == 0 for ask, seen in pairs if ask.id not in again)
    if name == "sessions":
        assert any((seen.cached_tokens or 0) > 0 for ask, seen in pairs if ask.id in again)


def test_words_counted_as_tokens_are_not_what_the_server_counts(url: str) -> None:
    """The control."""
    endpoint = Endpoint(url, "penstock-bundled", route=Route.CHAT)
    naive = [Ask(id, None, "water " * 30 + str(id), 31, 2) for id in range(3)]
    assert all(seen.prompt_tokens != ask.prompt_tokens for ask, seen in sent(endpoint, naive))


def test_a_shared_prefix_is_met_in_the_cache_and_nothing_else(url: str) -> None:
    endpoint = Endpoint(url, "penstock-bundled")
    options = WorkloadOptions(
        arrivals=ClosedLoop(1),
        num_requests=6,
        lengths=Independent(Fixed(40), Fixed(2)),
        prefix_tokens=160,
        seed=77,
    )
    with ServerCounter(endpoint) as counter:
        asks = list(named_workload("random", options).asks(PromptMaker(counter, PromptKind.IDS, seed=5)))
    first, *others = run(RunPlan(endpoint, users=1), asks).seen
    assert first.cached_tokens == 0
    assert all(128 <= (seen.cached_tokens or 0) <= 160 for seen in others)
