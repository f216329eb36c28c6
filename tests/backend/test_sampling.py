"""Sampling after the vocabulary pass: a step answers what the plain sampler makes of its logits, bit for bit."""

import numpy as np
import pytest
from tests.backend.driver import Driver, make_backend
from tests.backend.reference import make_spec, random_weights, weight_map
from tests.native.plain_sampler import plain_sample

from penstock import _native
from penstock.backend.cpu import compute_tiers
from penstock.core import SAMPLE, Output, OutputKind, Row, SamplingParams

SPEC = make_spec(vocab=1003, logit_scale=1.3, logit_softcap=12.0)
WEIGHTS = weight_map(random_weights(SPEC, seed=8))
FIELDS = {"repetition_penalty": "repetition", "presence_penalty": "presence", "frequency_penalty": "frequency"}
KINDS = [
    {"temperature": 0.0},
    {"temperature": 0.0, "logprobs": 4, "repetition_penalty": 1.5},
    {},
    {"temperature": 0.6, "logprobs": 0},
    {"top_k": 40, "top_p": 0.9},
    {"top_p": 0.7, "logprobs": 80},
    {"min_p": 0.1, "frequency_penalty": 0.4},
    {"presence_penalty": 1.0, "top_k": 100},
]
MASKS = {
    2: np.packbits(np.arange(1003) % 7 == 3, bitorder="little").tobytes(),
    4: np.packbits(np.arange(1003) > 4, bitorder="little").tobytes(),
    5: bytes(126),
}


def prompt_of(slot):
    return [int(t) for t in np.random.default_rng(slot).integers(0, SPEC.vocab, 20 + 3 * slot)]


def plain_row(kernels, logits, kind, slot, tokens, mask):
    params = {FIELDS.get(name, name): value for name, value in kind.items()} | {"seed": slot}
    num_prompt = len(prompt_of(slot))
    return plain_sample(kernels, logits, params, tokens, num_prompt, len(tokens), mask)


def as_plain(row):
    """A row's result in the form of the plain sampler's."""
    if row.error:
        return (-1, {"invalid_logits": 1, "empty_mask": 2}[row.error], None)
    shown = None if row.logprobs is None else [tuple(entry) for entry in row.logprobs]
    return (row.tokens[0], 0, shown)


@pytest.mark.parametrize("tier", compute_tiers())
def test_steps_sample_as_the_plain_sampler_does(tier):
    driver = Driver(make_backend(SPEC, WEIGHTS, isa=tier, threads=2), page_order=range(64))
    kernels = _native.kernels(tier)
    tokens = {slot: prompt_of(slot) for slot in range(len(KINDS))}
    for slot, kind in enumerate(KINDS):
        driver.open(slot, tokens[slot], sampling=SamplingParams(**kind), seed=slot)
    rows = [driver.row(slot, 0, tokens[slot]) for slot in tokens]
    for step in range(4):
        masks = MASKS if step == 3 else {}
        result, logits = driver.step(*rows, masks=masks, logits=True)
        live = list(tokens)
        for slot, row, seen in zip(live, result.rows, logits, strict=True):
            want = plain_row(kernels, seen, KINDS[slot], slot, tokens[slot], masks.get(slot))
            assert as_plain(row) == want
            if step < 3:  # the last step's masks leave one row nothing
                tokens[slot].append(row.tokens[0])
        if step < 3:
            rows = [driver.row(slot, len(tokens[slot]) - 1, tokens[slot][-1:]) for slot in live]
    assert [row.error for row in result.rows] == [None] * 5 + ["empty_mask"] + [None] * 2


def test_control_the_plain_sampler_sees_another_seed():
    driver = Driver(make_backend(SPEC, WEIGHTS))
    driver.open(0, prompt_of(0), seed=0, sampling=SamplingParams(temperature=2.0))
    result, logits = driver.step(driver.row(0, 0, prompt_of(0)), logits=True)
    kernels = _native.kernels()
    assert as_plain(result.rows[0]) == plain_row(kernels, logits[0], {"temperature": 2.0}, 0, prompt_of(0), None)
    others = [plain_sample(kernels, logits[0], {"temperature": 2.0, "seed": s}, position=20)[0] for s in range(1, 30)]
    assert len(set(others)) > 1


def test_prompt_logprobs_come_from_the_same_outlines():
    """More positions than have logits at once, beside a row that samples."""
    prompt = [int(t) for t in np.random.default_rng(3).integers(0, SPEC.vocab, 90)]
    driver = Driver(make_backend(SPEC, WEIGHTS, threads=2))
    driver.open(0, prompt)
    driver.open(1, prompt_of(1))
    asked = Output(OutputKind.PROMPT_LOGPROBS, 1, 89, 3, True)
    base = driver.row(0, 0, prompt)
    row = Row(base.slot, base.start, base.tokens, base.new_pages, 0, asked)
    result, logits = driver.step(row, driver.row(1, 0, prompt_of(1), SAMPLE), logits=True)
    found = result.rows[0].prompt_logprobs
    assert found is not None
    assert len(found) == 89
    one = Driver(make_backend(SPEC, WEIGHTS))
    one.open(0, prompt[:1])
    for position, token in enumerate(prompt[:-1]):
        _, seen = one.step(one.row(0, position, (token,)), logits=True)
        [want] = _native.raw_logprob(_native.kernels(), seen[0].copy(), prompt[position + 1], 3)
        assert tuple(found[position]) == want
    for row, seen in zip(result.rows, logits, strict=True):
        assert row.tokens[0] == int(seen.argmax())
