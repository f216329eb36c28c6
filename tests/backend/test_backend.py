"""What every backend promises: outputs, slots, masks, group codes, refusals, the end."""

import threading

import numpy as np
import pytest
from tests.backend import driver as drivers
from tests.backend.driver import Driver
from tests.backend.reference import make_spec, random_weights, reference_logits, weight_map

from penstock.backend.cpu import CpuBackend, CpuOptions, compute_tiers, default_threads
from penstock.core import (
    NO_OUTPUT,
    ConfigError,
    EngineUnavailable,
    Output,
    OutputKind,
    RowResult,
    SamplingParams,
    StepPlan,
    TokenLogprobs,
)
from penstock.model import KV_COSTS

SPEC = make_spec()
ARRAYS = random_weights(SPEC)
WEIGHTS = weight_map(ARRAYS)


def tokens_of(count, seed=1):
    return [int(t) for t in np.random.default_rng(seed).integers(0, SPEC.vocab, count)]


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def ask(first, count, k, sample=False):
    return Output(OutputKind.PROMPT_LOGPROBS, first, count, k, sample)


@pytest.mark.parametrize("chunks", [(90,), (1, 89), (40, 30, 20), (64, 25, 1)])
def test_prompt_logprobs_are_those_of_the_reference(make_backend, chunks):
    tokens = tokens_of(90)
    expected = log_softmax(reference_logits(SPEC, ARRAYS, tokens, 512))
    driver = Driver(make_backend(SPEC, WEIGHTS))
    driver.open(0, tokens)
    found, at = [], 0
    for size in chunks:
        last = at + size == len(tokens)
        count = min(at + size, len(tokens) - 1) - at
        output = ask(at + 1, count, 3, sample=last)
        result = driver.step(driver.row(0, at, tokens[at : at + size], output)).rows[0]
        assert bool(result.tokens) == last
        found.extend(result.prompt_logprobs or ())
        at += size
    assert [entry.token for entry in found] == tokens[1:]
    for position, entry in enumerate(found):
        row = expected[position]
        assert entry.logprob == pytest.approx(row[entry.token], abs=1e-4)
        assert entry.rank == 1 + int((row > row[entry.token]).sum())
        assert [t for t, _ in entry.top] == list(np.argsort(-row, kind="stable")[:3])


def test_sampled_logprobs_are_of_the_raw_distribution(make_backend):
    tokens = tokens_of(20)
    row = log_softmax(reference_logits(SPEC, ARRAYS, tokens, 512))[-1]
    bias = SamplingParams(temperature=0.0, logprobs=2, logit_bias=((7, 100.0),))
    driver = Driver(make_backend(SPEC, WEIGHTS))
    driver.open(0, tokens, sampling=bias)
    result = driver.step(driver.row(0, 0, tokens)).rows[0]
    [entry] = result.logprobs
    assert result.tokens == (7,)
    assert entry.token == 7
    assert entry.logprob == pytest.approx(row[7], abs=1e-4)
    assert [t for t, _ in entry.top] == list(np.argsort(-row, kind="stable")[:2])


def test_no_output_rows_give_nothing(make_backend):
    driver = Driver(make_backend(SPEC, WEIGHTS))
    driver.open(0, tokens_of(8))
    assert driver.step(driver.row(0, 0, tokens_of(8), NO_OUTPUT)).rows[0] == ((), None, None, (), None, None)


def test_masks_allow_only_their_tokens(make_backend):
    driver = Driver(make_backend(SPEC, WEIGHTS))
    driver.open(0, tokens_of(8))
    mask = bytearray((SPEC.vocab + 7) // 8)
    mask[99 // 8] |= 1 << (99 % 8)
    assert driver.step(driver.row(0, 0, tokens_of(8)), masks={0: bytes(mask)}).rows[0].tokens == (99,)
    empty = driver.step(driver.row(0, 8, (99,)), masks={0: bytes(len(mask))}).rows[0]
    assert empty.error == "empty_mask"


def test_a_mask_of_another_length_is_refused(make_backend):
    backend = make_backend(SPEC, WEIGHTS)
    driver = Driver(backend)
    driver.open(0, tokens_of(8))
    with pytest.raises(ValueError, match="mask"):
        driver.step(driver.row(0, 0, tokens_of(8)), masks={0: b"\xff"})


def test_penalties_see_prompt_and_output(make_backend):
    tokens = [5, 5, 9]
    heavy = SamplingParams(temperature=0.0, presence_penalty=2.0, repetition_penalty=10.0, frequency_penalty=2.0)
    driver = Driver(make_backend(SPEC, WEIGHTS))
    driver.open(0, tokens, sampling=heavy)
    seen, token = list(tokens), None
    for position in range(2, 12):
        row = driver.row(0, 0, tokens) if token is None else driver.row(0, position, (token,))
        result, logits = driver.step(row, logits=True)
        token = result.rows[0].tokens[0]
        expected = logits[0].astype(np.float32).copy()
        for known in set(seen):
            expected[known] = expected[known] / 10 if expected[known] > 0 else expected[known] * 10
        for known in set(seen[3:]):
            expected[known] -= 2.0 + 2.0 * seen[3:].count(known)
        assert token == int(expected.argmax())
        seen.append(token)


def test_slots_are_used_again_without_a_trace(make_backend):
    driver = Driver(make_backend(SPEC, WEIGHTS, max_running=2))
    tokens = tokens_of(30)
    driver.open(0, tokens)
    first = driver.step(driver.row(0, 0, tokens)).rows[0].tokens
    driver.release(0)
    driver.open(0, tokens_of(45, seed=2), sampling=SamplingParams(temperature=2.0, seed=1))
    driver.step(driver.row(0, 0, tokens_of(45, seed=2)))
    driver.release(0)
    driver.open(0, tokens)
    assert driver.step(driver.row(0, 0, tokens)).rows[0].tokens == first


def test_one_group_and_its_size(make_backend):
    backend = make_backend(SPEC, WEIGHTS)
    [group] = backend.kv_groups
    assert (group.name, group.layers, group.window) == ("full", (0, 1), None)
    assert group.bytes_per_page == 2 * 2 * 2 * 16 * 16 * 4  # layers, keys and values, heads, tokens, dims, bytes
    assert backend.weight_bytes == sum(a.nbytes for a in ARRAYS.values() if a.ndim == 2)


def test_the_tier_has_a_name():
    assert drivers.make_backend(SPEC, WEIGHTS).tier in compute_tiers()
    assert drivers.make_backend(SPEC, WEIGHTS, kind="torch").tier == "torch-cpu-f32"
    assert default_threads() >= 1


def test_pages_can_be_read_and_written(make_backend):
    driver = Driver(make_backend(SPEC, WEIGHTS))
    tokens = tokens_of(16)
    driver.open(0, tokens)
    driver.step(driver.row(0, 0, tokens))
    page = driver.backend.read_page(0, driver.tables[0][0])
    assert any(page)
    driver.backend.write_page(0, 50, page)
    assert driver.backend.read_page(0, 50) == page
    with pytest.raises(ValueError, match="size"):
        driver.backend.write_page(0, 50, page[1:])
    with pytest.raises(ValueError, match="range"):
        driver.backend.read_page(0, 64)


def test_a_step_takes_time_and_says_how_much(make_backend):
    driver = Driver(make_backend(SPEC, WEIGHTS))
    driver.open(0, tokens_of(64))
    assert 0 < driver.step(driver.row(0, 0, tokens_of(64))).duration_s < 60


def test_other_threads_run_while_a_step_does(make_backend):
    """finish blocks without the GIL: a second Python thread gets through meanwhile."""
    spec = make_spec(hidden=256, intermediate=512)
    backend = make_backend(spec, weight_map(random_weights(spec)), isa="scalar")
    driver = Driver(backend)
    tokens = [t % spec.vocab for t in range(60)]
    driver.open(0, tokens)
    ticket = backend.submit(StepPlan(0, tuple(driver.pending), (driver.row(0, 0, tokens),), (), ()))
    done, ticks = threading.Event(), []

    def tick():
        while not done.wait(0.002):
            ticks.append(1)

    other = threading.Thread(target=tick)
    other.start()
    backend.finish(ticket, None)
    done.set()
    other.join()
    assert len(ticks) > 3


def test_close_ends_a_step_under_way(make_backend):
    spec = make_spec(hidden=256, intermediate=512, num_layers=8)
    backend = make_backend(spec, weight_map(random_weights(spec)), isa="scalar")
    driver = Driver(backend)
    tokens = [t % spec.vocab for t in range(100)]
    driver.open(0, tokens)
    ticket = backend.submit(StepPlan(0, tuple(driver.pending), (driver.row(0, 0, tokens),), (), ()))
    backend.close()
    with pytest.raises(EngineUnavailable):
        backend.finish(ticket, None)


OPTIONS = {"max_model_tokens": 64, "max_running": 4, "max_step_tokens": 64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"page_tokens": 24}, "page_tokens is 24"),
        ({"page_tokens": 0}, "page_tokens is 0"),
        ({"max_running": 0}, "max_running is 0"),
        ({"kv_type": "fp8"}, "kv_type is 'fp8'"),
        ({"threads": 0}, "threads is 0"),
        ({"isa": "mmx"}, "mmx"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        CpuBackend(SPEC, WEIGHTS, CpuOptions(**(OPTIONS | changes)))


@pytest.mark.parametrize("kind", ["cpu", "torch"])
def test_too_many_pages_are_a_config_error(kind):
    backend = CpuBackend(SPEC, WEIGHTS, CpuOptions(**OPTIONS))
    if kind == "torch":
        backend = drivers.make_torch_backend(SPEC, WEIGHTS, OPTIONS | {"threads": 1})
    with pytest.raises(ConfigError, match=r"KV|range"):
        backend.allocate((2**50,))
    with pytest.raises(ConfigError, match="KV groups full"):
        backend.allocate((1, 1))


def test_rows_beyond_the_step_budget_are_refused(make_backend):
    driver = Driver(make_backend(SPEC, WEIGHTS, max_step_tokens=8))
    driver.open(0, tokens_of(9))
    with pytest.raises(ValueError, match="max_step_tokens"):
        driver.step(driver.row(0, 0, tokens_of(9)))


@pytest.mark.parametrize("kv_type", KV_COSTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_stored_keys_and_values_that_are_not_finite_fail_their_row_alone(make_backend, kv_type, bad):
    """Token 7's hidden state is not finite; what follows it sees that through the KV alone."""
    arrays = ARRAYS | {"embed": ARRAYS["embed"].copy()}
    arrays["embed"][7] = bad
    driver = Driver(make_backend(SPEC, weight_map(arrays), kv_type=kv_type))
    clean = Driver(make_backend(SPEC, WEIGHTS, kv_type=kv_type))
    for slot, tokens in ((0, [1, 7, 3, 4]), (1, [1, 2, 3, 4])):
        driver.open(slot, tokens)
        driver.step(driver.row(slot, 0, tokens[:3], NO_OUTPUT))
    rows = driver.step(driver.row(0, 3, [4]), driver.row(1, 3, [4])).rows
    clean.open(0, [1, 2, 3, 4])
    assert (rows[0].error, rows[0].tokens) == ("invalid_logits", ())
    assert rows[1].tokens == clean.prefill(0, [1, 2, 3, 4], [3])[-1][0].tokens


def test_results_that_are_nothing_but_a_token_are_shared_and_bounded(monkeypatch):
    monkeypatch.setattr("penstock.backend.cpu.backend._MAX_PLAIN_RESULTS", 2)
    backend = CpuBackend.__new__(CpuBackend)
    backend._plain_results = {}
    raw = [((5,), 0, None, None), ((5,), 0, None, None), ((6,), 0, [(6, -1.0, 1, ())], None), ((7,), 1, None, None)]
    first, second, spoken, failed = backend._results(raw)
    assert first == second == RowResult((5,)) and first is second
    assert spoken == RowResult((6,), (TokenLogprobs(6, -1.0, 1, ()),))
    assert failed == RowResult(error="invalid_logits")
    for token in range(20):
        assert backend._results([((token,), 0, None, None)]) == (RowResult((token,)),)
        assert len(backend._plain_results) <= 3
