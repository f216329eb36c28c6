"""Traces as workloads: times, lengths and shared prefixes come through to the prompts."""

from itertools import takewhile
from pathlib import Path

import pytest

from penstock.bench.arrivals import ClosedLoop, Constant
from penstock.bench.counters import LocalCounter
from penstock.bench.options import WorkloadOptions
from penstock.bench.prompts import PromptKind, PromptMaker
from penstock.bench.replays import replayed
from penstock.bench.traces import Scaling, TraceRow, read_mooncake
from penstock.bench.workloads import named_workload
from penstock.core import ConfigError
from penstock.text import load_tokenizer

BUNDLED = Path(__file__).parents[2] / "src/penstock/models/bundled"
DATA = Path(__file__).parents[3] / "shared" / "data" / "traces"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published traces are not here")
ROWS = [
    TraceRow(0.0, 600, 5, (1, 2)),
    TraceRow(1.0, 1100, 6, (1, 2, 3)),
    TraceRow(2.5, 600, 7, (1, 4)),
    TraceRow(2.5, 512, 8, (9,)),
    TraceRow(4.0, 600, 9, (1, 2)),
]


@pytest.fixture(scope="module")
def counter() -> LocalCounter:
    return LocalCounter(load_tokenizer(BUNDLED))


def num_shared(one, two) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))


def test_ids_share_exactly_the_blocks_that_the_trace_says(counter: LocalCounter) -> None:
    asks = list(replayed("mooncake", ROWS, WorkloadOptions()).asks(PromptMaker(counter, PromptKind.IDS)))
    prompts = [ask.prompt for ask in asks]
    assert [len(prompt) for prompt in prompts] == [600, 1100, 600, 512, 600]
    assert num_shared(prompts[0], prompts[1]) == 600  # the second block goes on where the first request ends
    assert 512 <= num_shared(prompts[0], prompts[2]) < 520
    assert num_shared(prompts[0], prompts[3]) < 8
    assert prompts[4] == prompts[0]
    assert [(ask.arrival_s, ask.max_tokens) for ask in asks] == [(0.0, 5), (1.0, 6), (2.5, 7), (2.5, 8), (4.0, 9)]


@pytest.mark.parametrize("kind", [PromptKind.TEXT, PromptKind.CHAT])
def test_texts_are_exact_and_share_their_blocks(counter: LocalCounter, kind: PromptKind) -> None:
    asks = list(replayed("mooncake", ROWS, WorkloadOptions()).asks(PromptMaker(counter, kind)))
    assert (
        [counter.count(ask.prompt) for ask in asks] == [ask.prompt_tokens for ask in asks] == [600, 1100, 600, 512, 600]
    )
    texts = [ask.prompt if isinstance(ask.prompt, str) else ask.prompt[0]["content"] for ask in asks]
    tokens = [counter.ids(text) for text in texts]
    assert num_shared(tokens[0], tokens[1]) >= 585
    assert 500 <= num_shared(tokens[0], tokens[2]) < 525
    assert num_shared(tokens[0], tokens[3]) < 12
    assert texts[4] == texts[0]


def test_copies_of_a_trace_share_nothing_with_it(counter: LocalCounter) -> None:
    rows = [TraceRow(0.0, 600, 5, (1, 2)), TraceRow(0.0, 600, 5, (1, 2), copy=1)]
    one, two = (ask.prompt for ask in replayed("mooncake", rows, WorkloadOptions()).asks(PromptMaker(counter)))
    assert num_shared(one, two) < 30


def test_rows_without_blocks_share_nothing_and_are_never_used_again(counter: LocalCounter) -> None:
    rows = [TraceRow(float(at), 40, 5) for at in range(50)]
    workload = replayed("azure", rows, WorkloadOptions())
    assert not workload.shared
    assert len({ask.prompt[:30] for ask in workload.asks(PromptMaker(counter))}) == 50
    again = replayed("azure", rows, WorkloadOptions(distinct=5))
    assert len({ask.prompt for ask in again.asks(PromptMaker(counter))}) == 5
    assert again.shared


def test_number_time_and_size_cut_it_and_what_is_cut_for_size_is_counted() -> None:
    assert len(replayed("mooncake", ROWS, WorkloadOptions(num_requests=3)).items) == 3
    assert len(replayed("mooncake", ROWS, WorkloadOptions(duration_s=2.0)).items) == 2
    fitted = replayed("mooncake", ROWS, WorkloadOptions(max_model_tokens=700, min_prompt_tokens=513))
    assert (len(fitted.items), fitted.left_out) == (3, 2)
    with pytest.raises(ConfigError, match="none of 5"):
        replayed("mooncake", ROWS, WorkloadOptions(max_model_tokens=100))


def test_another_process_may_send_a_trace_s_requests() -> None:
    steady = replayed("mooncake", ROWS, WorkloadOptions(arrivals=Constant(10.0)))
    assert [item.arrival_s for item in steady.items] == [0.0, 0.1, 0.2, 0.3, 0.4]
    closed = replayed("mooncake", ROWS, WorkloadOptions(arrivals=ClosedLoop(2)))
    assert closed.users == 2
    assert {item.arrival_s for item in closed.items} == {None}


@needs_data
def test_the_published_mooncake_trace_is_as_shared_as_its_names_say(counter: LocalCounter) -> None:
    """A cache of the prompts' tokens in blocks would meet what a cache of the trace's names meets, and no more."""
    path = DATA / "mooncake_conversation_first.jsonl.gz"
    options = WorkloadOptions(files=(path,), num_requests=250, max_model_tokens=20_000)
    workload = named_workload("mooncake", options)
    asks = list(workload.asks(PromptMaker(counter, PromptKind.IDS)))
    assert workload.shared and workload.left_out > 0
    rows = [row for row in read_mooncake(path) if row.prompt_tokens + row.output_tokens <= 20_000][:250]

    def hits(prompts: list[tuple[int, ...]]) -> list[int]:
        """Leading blocks of each prompt that an earlier one began with."""
        known: set[tuple[int, ...]] = set()
        found = []
        for prompt in prompts:
            beginnings = [prompt[: 512 * (at + 1)] for at in range(len(prompt) // 512)]
            found.append(sum(1 for _ in takewhile(known.__contains__, beginnings)))
            known.update(beginnings)
        return found

    by_tokens = hits([ask.prompt for ask in asks])
    seen: set[int] = set()
    by_names = []
    for row in rows:
        whole = row.blocks[: row.prompt_tokens // 512]
        by_names.append(sum(1 for _ in takewhile(seen.__contains__, whole)))
        seen.update(whole)
    assert by_tokens == by_names
    assert sum(by_names) > 300


@needs_data
def test_published_traces_by_name() -> None:
    azure = named_workload(
        "azure",
        WorkloadOptions(
            files=(DATA / "azure_llm_2023_code_0-30min.csv.gz",), scaling=Scaling(duration_s=60.0, time_factor=0.5)
        ),
    )
    assert azure.items[-1].arrival_s < 30.0
    assert azure.facts["files"] == ["azure_llm_2023_code_0-30min.csv.gz"]
    assert azure.facts["scaling"]["time_factor"] == 0.5
    files = tuple(DATA / f"servegen_deepseek-r1_{part}" for part in ("rates.csv.gz", "lengths.jsonl.gz"))
    scaling = Scaling(begin_s=40_000, duration_s=600, rate_factor=0.05)
    servegen = named_workload("servegen", WorkloadOptions(files=files, scaling=scaling))
    assert 10 < len(servegen.items) < 1000
    assert servegen.items[-1].arrival_s < 600.0
