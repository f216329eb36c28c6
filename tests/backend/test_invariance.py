"""A row's bits depend on its own sequence alone: not on chunks, mates, pages, prefixes, threads, tiers or drafts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backend.driver import Driver, make_backend, opened
from tests.backend.reference import make_spec, random_weights, weight_map
from tests.backend.test_packing import coded_model

from penstock.backend.cpu import compute_tiers
from penstock.core import (
    NO_OUTPUT,
    SAMPLE,
    FutureToken,
    PageCopy,
    Row,
    SamplingParams,
    StepPlan,
)
from penstock.formats import Storage
from penstock.model import QkNorm

TIERS = compute_tiers()
SPEC = make_spec(qk_norm=QkNorm.HEAD, head_dim=24, window=50, num_layers=2)
CODED = make_spec(
    qk_norm=QkNorm.HEAD, hidden=256, intermediate=256, num_heads=4, head_dim=64, scale=0.125, window=50, num_layers=1
)
MODELS = {
    "F32": (SPEC, weight_map(random_weights(SPEC, seed=4))),
    "Q4_K": (CODED, coded_model(Storage.Q4_K, CODED)[0]),
}
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, seed=7)


def tokens_of(count, seed=1):
    return [int(t) for t in np.random.default_rng(seed).integers(0, SPEC.vocab, count)]


RUNS = [
    *(("cpu", "bf16", "F32", tier) for tier in TIERS),
    *(("cpu", "int8", "Q4_K", tier) for tier in TIERS),
    ("cpu", "int8", "F32", TIERS[-1]),
    ("torch", "bf16", "F32", TIERS[-1]),
]


@pytest.fixture(scope="module", params=RUNS, ids=" ".join)
def backend_of(request):
    """Makes a backend of that kind, KV type and model, on that tier unless a test names one."""
    kind, kv_type, storage, tier = request.param
    fixed = {"kind": kind, "kv_type": kv_type} | ({"threads": 1} if kind == "torch" else {})  # more: its own tests
    return lambda **options: make_backend(*MODELS[storage], **({"isa": tier} | options | fixed))


PROMPT = tokens_of(75)
STEPS = 6


def run_alone(backend, prompt=PROMPT, chunks=(), steps=STEPS, page_order=None, page_tokens=16):
    """(tokens, bits of every sampling position's logits) of one sequence with nobody beside it."""
    driver = Driver(backend, page_tokens=page_tokens, page_order=page_order)
    driver.open(0, prompt, sampling=SAMPLED, seed=7)
    result, logits = driver.prefill(0, prompt, list(chunks))[-1]
    return decode(driver, 0, len(prompt), result, logits, steps)


def decode(driver, slot, at, result, logits, steps, mates=lambda: ()):
    tokens, bits = [result.tokens[0]], [logits[-1].tobytes()]
    for _ in range(steps):
        rows = [driver.row(slot, at, tokens[-1:]), *mates()]
        stepped, logits = driver.step(*rows, logits=True)
        tokens.append(stepped.rows[0].tokens[0])
        bits.append(logits[0].tobytes())
        at += 1
    return tokens, bits


@pytest.fixture(scope="module")
def expected(backend_of):
    return run_alone(backend_of())


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=6), st.randoms(use_true_random=False))
def test_chunks_and_page_places_do_not_matter(backend_of, expected, chunks, shuffler):
    order = list(range(64))
    shuffler.shuffle(order)
    assert run_alone(backend_of(), chunks=chunks, page_order=order) == expected


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("page_tokens", [16, 64])
def test_tiers_threads_and_page_sizes_do_not_matter(backend_of, expected, tier, threads, page_tokens):
    backend = backend_of(isa=tier, threads=threads, page_tokens=page_tokens)
    assert run_alone(backend, chunks=(33,), page_tokens=page_tokens) == expected


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 8), st.sampled_from([1, 2]))
def test_batch_mates_do_not_matter(backend_of, expected, lengths, place, threads):
    """Mates prefill beside the chunks and decode beside the steps, before and after the row in the plan."""
    driver = Driver(backend_of(threads=threads))
    driver.open(0, PROMPT, sampling=SAMPLED, seed=7)
    mates = {slot + 1: tokens_of(length, seed=slot) for slot, length in enumerate(lengths)}
    for slot, tokens in mates.items():
        driver.open(slot, tokens)
    rows = [driver.row(slot, 0, tokens) for slot, tokens in mates.items()]
    rows.insert(min(place, len(rows)), driver.row(0, 0, PROMPT[:50], NO_OUTPUT))
    results = driver.step(*rows).rows
    at = {slot: len(tokens) for slot, tokens in mates.items()}
    last = {row.slot: result.tokens[0] for row, result in zip(rows, results, strict=True) if row.slot}

    def mate_rows():
        out = []
        for slot in mates:
            out.append(driver.row(slot, at[slot], (last[slot],)))
            at[slot] += 1
            last[slot] = 5
        return out

    result, logits = driver.step(driver.row(0, 50, PROMPT[50:]), *mate_rows(), logits=True)
    assert decode(driver, 0, len(PROMPT), result.rows[0], logits[:1], STEPS, mate_rows) == expected


def test_control_another_token_changes_the_bits(backend_of, expected):
    changed = [*PROMPT[:-30], (PROMPT[-30] + 1) % SPEC.vocab, *PROMPT[-29:]]
    assert run_alone(backend_of(), prompt=changed)[1] != expected[1]


def test_a_shared_prefix_gives_the_same_bits(backend_of, expected):
    """A second slot takes the first one's full pages and computes the rest."""
    driver = Driver(backend_of())
    driver.open(1, PROMPT)
    driver.prefill(1, PROMPT, [20])
    driver.open(0, PROMPT, sampling=SAMPLED, seed=7)
    row = driver.row(0, 64, PROMPT[64:], shared=driver.tables[1][:4])
    result, logits = driver.step(row, logits=True)
    assert decode(driver, 0, len(PROMPT), result.rows[0], logits, STEPS) == expected


def test_a_copied_page_gives_the_same_bits(backend_of, expected):
    """Copy-on-write of the partial last page."""
    driver = Driver(backend_of())
    driver.open(1, PROMPT)
    driver.prefill(1, PROMPT, [])
    driver.open(0, PROMPT, sampling=SAMPLED, seed=7)
    source, target = driver.tables[1][4], 60
    row = driver.row(0, 74, PROMPT[74:], shared=[*driver.tables[1][:4], target])
    result, logits = driver.step(row, copies=[PageCopy(0, source, target)], logits=True)
    assert decode(driver, 0, len(PROMPT), result.rows[0], logits, STEPS) == expected


def test_a_slot_opened_again_after_preemption_goes_on_with_the_same_bits(backend_of, expected):
    tokens, bits = expected
    driver = Driver(backend_of())
    driver.open(0, PROMPT, sampling=SAMPLED, seed=7)
    result, _ = driver.prefill(0, PROMPT, [30])[-1]
    driver.release(0)
    known = [*PROMPT, *tokens[:3]]
    assert result.tokens[0] == tokens[0]
    driver.open(0, known, sampling=SAMPLED, seed=7, num_prompt=len(PROMPT))
    result, logits = driver.prefill(0, known, [41])[-1]
    assert (result.tokens[0], logits[-1].tobytes()) == (tokens[3], bits[3])


def test_future_tokens_are_the_last_sample(backend_of, expected):
    backend = backend_of()
    driver = Driver(backend)
    driver.open(0, PROMPT, sampling=SAMPLED, seed=7)
    first = driver.row(0, 0, PROMPT)
    plan = StepPlan(0, tuple(driver.pending), (first,), (), ())
    future = driver.row(0, 75, (0,))._replace(tokens=FutureToken(0, 0))
    tickets = [backend.submit(plan), backend.submit(StepPlan(1, (), (future,), (), ()))]
    tokens = [backend.finish(ticket, None).rows[0].tokens[0] for ticket in tickets]
    assert tokens == expected[0][:2]


@pytest.mark.parametrize("good", [0, 1, 2, 3])
def test_drafts_stand_exactly_when_they_would_have_been_sampled(backend_of, expected, good):
    tokens, bits = expected
    driver = Driver(backend_of())
    driver.open(0, PROMPT, sampling=SAMPLED, seed=7)
    driver.prefill(0, PROMPT, [])
    drafts = [*tokens[1 : 1 + good], *[(t + 1) % SPEC.vocab for t in tokens[1 + good : 4]]]
    row = driver.row(0, 75, (tokens[0], *drafts), num_drafts=3)
    result, logits = driver.step(row, logits=True)
    assert list(result.rows[0].tokens) == tokens[1 : good + 2]
    assert logits[0].tobytes() == bits[1]
    at = 75 + good + 1
    after = driver.step(driver.row(0, at, (tokens[good + 1],)))
    assert after.rows[0].tokens[0] == tokens[good + 2]


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 32, 33, 49, 50, 51, 65, 66, 67])
def test_page_and_window_borders(backend_of, length):
    """At every border one token a step equals one chunk; the window is 50."""
    prompt = PROMPT[:length]
    backend = backend_of()
    assert run_alone(backend, prompt, chunks=[1] * (length - 1), steps=2) == run_alone(backend_of(), prompt, steps=2)


def test_pages_wholly_behind_the_window_may_be_given_away(backend_of, expected):
    """What lies there is never read, and -1 may stand for it; one position nearer it is missed."""
    driver = Driver(backend_of())
    driver.open(1, PROMPT)
    driver.prefill(1, PROMPT, [])
    pages = driver.tables[1]
    poison(driver.backend, [pages[0]])
    driver.open(0, PROMPT, sampling=SAMPLED, seed=7)
    row = driver.row(0, 74, PROMPT[74:], shared=[-1, *pages[1:]])
    result, logits = driver.step(row, logits=True)
    assert decode(driver, 0, len(PROMPT), result.rows[0], logits, STEPS) == expected
    driver.open(2, PROMPT[:65])
    with pytest.raises(ValueError, match="freed"):
        driver.step(driver.row(2, 64, PROMPT[64:65], shared=[-1, *pages[1:]]))


def test_poisoned_unused_pages_change_nothing(backend_of, expected):
    backend = backend_of()
    poison(backend, range(64))
    assert run_alone(backend, page_order=range(40, 64)) == expected


def test_control_poison_in_a_used_page_fails_that_row_alone(backend_of, expected):
    driver = Driver(backend_of())
    driver.open(0, PROMPT, sampling=SAMPLED, seed=7)
    driver.open(1, PROMPT, sampling=SAMPLED, seed=7)
    driver.prefill(0, PROMPT, [])
    driver.prefill(1, PROMPT, [])
    poison(driver.backend, [driver.tables[1][3]])
    token = expected[0][0]
    rows = driver.step(driver.row(0, 75, (token,)), driver.row(1, 75, (token,))).rows
    assert rows[0].tokens == (expected[0][1],)
    assert rows[1].error == "invalid_logits"
    assert rows[1].tokens == ()


def poison(backend, pages):
    """Fills whole pages of every layer with NaN."""
    for page in pages:
        backend.write_page(0, page, b"\xff" * backend.kv_groups[0].bytes_per_page)


def test_bad_plans_are_refused_and_the_next_one_runs(backend_of, expected):
    backend = backend_of()
    bad = [
        StepPlan(0, (opened(99, PROMPT),), (), (), ()),
        StepPlan(0, (opened(3, [SPEC.vocab]),), (), (), ()),
        StepPlan(0, (), (driver_row(slot=5),), (), ()),
        StepPlan(0, (opened(0, PROMPT),), (driver_row(pages=(64,)),), (), ()),
        StepPlan(0, (opened(1, PROMPT),), (driver_row(slot=1, pages=()),), (), ()),
        StepPlan(0, (opened(2, PROMPT),), (driver_row(slot=2, tokens=(2**20,)),), (), ()),
        StepPlan(0, (), (), (PageCopy(0, 0, 64),), ()),
    ]
    for plan in bad:
        ticket = backend.submit(plan)
        with pytest.raises(ValueError, match=r"range|open|pages"):
            backend.finish(ticket, None)
    backend.finish(backend.submit(StepPlan(0, (), (), (), (0, 1, 2, 3))), None)
    assert run_alone(backend) == expected


def driver_row(slot=0, start=0, tokens=(1,), pages=(0,)):
    return Row(slot, start, tokens, (pages,), 0, SAMPLE)
