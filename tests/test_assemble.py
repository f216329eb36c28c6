"""The real parts together: tokens depend on the request alone, and a live run replays to the same decisions."""

from __future__ import annotations

import functools
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.assemble import BUNDLED, LoadedModel, LoadOptions, load
from penstock.backend.cpu import CpuBackend
from penstock.core import ConfigError, Event, ModelFileError, Request, SamplingParams
from penstock.sim import replay

KV_BYTES_A_TOKEN = {"bf16": 2048, "f32": 4096, "int8": 1088}  # the bundled model's


def options(tokens: int, **changes: object) -> LoadOptions:
    """The bundled model with KV for so many tokens."""
    kv_bytes = tokens * KV_BYTES_A_TOKEN[str(changes.get("kv_type", "bf16"))]
    base = {"kv_bytes": kv_bytes, "page_tokens": 16, "max_running": 16, "threads": 2}
    return LoadOptions(**{**base, **changes})  # type: ignore[arg-type]


def requests(model: LoadedModel, count: int) -> list[Request]:
    """Prompts of very different lengths, half of them sharing a prefix, greedy and sampled, one and two samples."""
    rng = random.Random(1)
    shared = tuple(rng.randrange(6, 4000) for _ in range(70))
    found = []
    for i in range(count):
        own = tuple(rng.randrange(6, 4000) for _ in range(rng.choice([1, 5, 16, 17, 40, 130])))
        params = SamplingParams(
            temperature=rng.choice([0.0, 0.8, 1.2]),
            top_p=rng.choice([1.0, 0.9]),
            repetition_penalty=rng.choice([1.0, 1.2]),
            max_tokens=rng.choice([1, 7, 33, 60]),
            n=rng.choice([1, 1, 2]),
            seed=i,
            logprobs=0,
            ignore_eos=True,
        )
        found.append(model.request(f"r{i}", shared + own if i % 2 else own, params))
    return found


Answer = list[tuple[tuple[int, ...], tuple[float, ...]]]


def collect(model: LoadedModel, request: Request) -> Answer:
    """Tokens and log probabilities of every sample."""
    events: list[Event] = [event for batch in model.client.submit(request) for event in batch]
    found: Answer = []
    for sample in range(request.sampling.n):
        mine = [event for event in events if event.sample == sample]
        assert mine[-1].finish is not None
        tokens = tuple(t for event in mine for t in event.tokens)
        logprobs = tuple(entry.logprob for event in mine for entry in event.logprobs or ())
        found.append((tokens, logprobs))
    return found


def alone(model: LoadedModel, wanted: list[Request]) -> list[Answer]:
    """Each request with nobody beside it."""
    return [collect(model, request) for request in wanted]


def together(model: LoadedModel, wanted: list[Request], order: list[int]) -> list[Answer]:
    """All at once, each from a thread of its own, arriving in that order."""
    answers: dict[int, Answer] = {}
    threads = [
        threading.Thread(target=lambda i=i: answers.__setitem__(i, collect(model, wanted[i])))  # type: ignore[misc]
        for i in order
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return [answers[i] for i in range(len(wanted))]


def teach_short_outputs(model: LoadedModel) -> None:
    """Lets admission expect one token a request, so that it takes in more than the pages will hold."""
    for i in range(64):
        collect(model, model.request(f"short{i}", (5, 6, 7), SamplingParams(max_tokens=1, seed=i)))


def close(model: LoadedModel) -> None:
    """Ends a model and asserts that all its pages came back."""
    snapshot = model.client.snapshot()
    assert snapshot.pages_held == 0
    assert snapshot.pages_free + snapshot.pages_cached == snapshot.pages_total
    model.close()


@pytest.fixture(scope="module")
def expected() -> Callable[[str], list[Answer]]:
    """The answers of every request alone, by KV type."""

    @functools.cache
    def compute(kv_type: str) -> list[Answer]:
        model = load(options(4096, prefix_cache=False, kv_type=kv_type))
        found = alone(model, requests(model, 40))
        close(model)
        return found

    return compute


@pytest.mark.parametrize(
    ("tokens", "changes"),
    [
        pytest.param(16384, {}, id="roomy, prefix hits"),
        pytest.param(700, {}, id="pages so few that sequences are preempted"),
        pytest.param(4096, {"max_step_tokens": 23}, id="odd chunks of at most 23 tokens"),
        pytest.param(4096, {"threads": 1, "max_running": 3}, id="one thread, three slots"),
        pytest.param(4096, {"page_tokens": 32, "prefix_cache": False}, id="other pages, no cache"),
        pytest.param(16384, {"kv_type": "int8", "page_tokens": 32}, id="int8 KV, roomy, prefix hits"),
        pytest.param(700, {"kv_type": "int8", "max_step_tokens": 40}, id="int8 KV, sequences are preempted"),
    ],
)
def test_tokens_and_logprobs_are_those_of_the_request_alone(
    expected: Callable[[str], list[Answer]], tokens: int, changes: dict[str, object]
) -> None:
    kv_type = str(changes.get("kv_type", "bf16"))
    model = load(options(tokens, **{"kv_type": kv_type, **changes}))
    teach_short_outputs(model)
    wanted = requests(model, 40)
    order = list(range(40))
    random.Random(tokens).shuffle(order)
    found = together(model, wanted, order)
    if tokens == 700:
        assert model.client.snapshot().num_preemptions > 0
    close(model)
    assert found == expected(kv_type)


def test_another_kv_type_shows(expected: Callable[[str], list[Answer]]) -> None:
    """The control: what may change the bits does change them, so the comparison above can fail."""
    assert expected("f32") != expected("bf16") != expected("int8") != expected("f32")


def test_a_live_run_replays_to_the_same_decisions(tmp_path: Path) -> None:
    log = tmp_path / "steps.jsonl"
    model = load(options(900, step_log=str(log)))
    wanted = requests(model, 24)
    together(model, wanted, list(range(24)))
    victim = model.client.submit(model.request("victim", (5, 6, 7), SamplingParams(max_tokens=400, ignore_eos=True)))
    next(iter(victim))
    model.client.cancel("victim")
    stopped = SamplingParams(max_tokens=200, seed=4, stop=("e",), ignore_eos=True)
    assert collect(model, model.request("stopped", (9, 10, 11), stopped))
    model.close()
    result = replay(log)
    assert result.turns > 20
    assert result.first_difference is None


def test_a_wrong_choice_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load(LoadOptions(kv_bytes=1000))
    with pytest.raises(ConfigError):
        load(LoadOptions(kv_type="int3"))
    with pytest.raises(ModelFileError):
        load(LoadOptions(model=str(tmp_path)))
    with pytest.raises(ConfigError, match="max_model_tokens is 0"):
        load(LoadOptions(max_model_tokens=0))


def test_a_start_that_fails_late_frees_the_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[CpuBackend] = []
    close_backend = CpuBackend.close

    def close_and_tell(self: CpuBackend) -> None:
        closed.append(self)
        close_backend(self)

    monkeypatch.setattr(CpuBackend, "close", close_and_tell)
    with pytest.raises(ConfigError, match="the step log"):
        load(options(1024, step_log=str(tmp_path / "no" / "such" / "folder")))
    assert len(closed) == 1
    model = load(options(1024))  # the control: a start that goes well closes nothing
    assert len(closed) == 1
    model.close()


def test_two_models_of_one_process_take_turns_on_one_pool() -> None:
    first = load(options(512))
    try:
        second = load(options(512), pool=first.pool)
        try:
            assert second.pool is first.pool
            request = requests(first, 1)[0]
            assert collect(second, request) == collect(first, request)
        finally:
            second.close()
    finally:
        first.close()
    with pytest.raises(ConfigError, match="threads is 1"):
        load(options(512, threads=1), pool=first.pool)


def test_what_the_core_cannot_run_names_the_model(tmp_path: Path) -> None:
    for path in BUNDLED.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_scaling"] = {"rope_type": "dynamic", "factor": 2.0**64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=f"{tmp_path}: rope scaling dynamic"):
        load(LoadOptions(model=str(tmp_path)))
