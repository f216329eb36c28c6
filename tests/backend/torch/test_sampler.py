"""Sampling on the device: the tokens that the native core samples from the same logits, and its log probabilities."""

import numpy as np
import pytest
from tests.backend.driver import Driver, make_backend
from tests.backend.reference import make_spec, random_weights, weight_map
from tests.native.plain_sampler import many_uniforms, noise_key, plain_sample

from penstock import _native
from penstock.core import SAMPLE, Output, OutputKind, SamplingParams

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from penstock.backend.torch import noise

SPEC = make_spec(vocab=1003, num_layers=1, logit_scale=0.6)
WEIGHTS = weight_map(random_weights(SPEC, seed=8))
FIELDS = {
    "repetition_penalty": "repetition",
    "presence_penalty": "presence",
    "frequency_penalty": "frequency",
    "logit_bias": "bias",
    "stop_token_ids": "end_ids",
}
KINDS = [
    {"temperature": 0.0},
    {"temperature": 0.0, "logprobs": 4, "repetition_penalty": 1.5},
    {},
    {"temperature": 0.6, "logprobs": 0},
    {"top_k": 40, "top_p": 0.9},
    {"top_p": 0.7, "logprobs": 20},
    {"min_p": 0.1, "frequency_penalty": 0.4},
    {"presence_penalty": 1.0, "top_k": 100, "repetition_penalty": 0.8},
    {"typical_p": 0.6},
    {"typical_p": 0.9, "top_k": 300, "temperature": 1.7, "min_p": 0.01},
    {"logit_bias": ((5, 3.0), (9, -100.0)), "temperature": 2.5},
    {"temperature": 1e-20},
    {"top_k": 1},
    {"min_tokens": 30, "stop_token_ids": tuple(range(0, 1003, 2))},
    {"top_p": 1e-9, "temperature": 3.0},
    {"top_k": 5000, "top_p": 0.999, "temperature": 1.3},
    {"temperature": 1.1},
    {"top_p": 0.4, "presence_penalty": -2.0},
]
MASKS = {
    2: np.packbits(np.arange(1003) % 7 == 3, bitorder="little").tobytes(),
    4: np.packbits(np.arange(1003) > 4, bitorder="little").tobytes(),
    5: bytes(126),
}


def prompt_of(slot):
    return [int(t) for t in np.random.default_rng(slot).integers(0, SPEC.vocab, 20 + 3 * slot)]


def native_row(logits, kind, slot, tokens, mask=None):
    params = {FIELDS.get(name, name): list(v) if isinstance(v, tuple) else v for name, v in kind.items()}
    return plain_sample(
        _native.kernels(), logits, params | {"seed": slot}, tokens, len(prompt_of(slot)), len(tokens), mask
    )


def check(row, want, same=True):
    error = {None: 0, "invalid_logits": 1, "empty_mask": 2}[row.error]
    found = (row.tokens[0] if row.tokens else -1, error)
    assert (found == want[:2]) == same
    if want[2] and same:
        token, logprob, rank, top = want[2][0]
        got = row.logprobs[0]
        assert (got.token, got.rank, [t for t, _ in got.top]) == (token, rank, [t for t, _ in top])
        assert [got.logprob, *(v for _, v in got.top)] == pytest.approx([logprob, *(v for _, v in top)], abs=2e-6)


def test_steps_sample_what_the_core_samples():
    driver = Driver(make_backend(SPEC, WEIGHTS, kind="torch", max_running=32, pages=256), page_order=range(256))
    tokens = {slot: prompt_of(slot) for slot in range(len(KINDS))}
    for slot, kind in enumerate(KINDS):
        driver.open(slot, tokens[slot], sampling=SamplingParams(**kind), seed=slot)
    rows = [driver.row(slot, 0, tokens[slot]) for slot in tokens]
    changed = 0
    for step in range(12):
        masks = MASKS if step == 11 else {}
        result, logits = driver.step(*rows, masks=masks, logits=True)
        for slot, (row, seen) in enumerate(zip(result.rows, logits, strict=True)):
            check(row, native_row(seen, KINDS[slot], slot, tokens[slot], masks.get(slot)))
            changed += native_row(seen, KINDS[slot], slot + 1, tokens[slot])[0] != (row.tokens or (-1,))[0]
            tokens[slot] += row.tokens
        rows = [driver.row(slot, len(tokens[slot]) - 1, tokens[slot][-1:]) for slot in tokens] if step < 11 else rows
    assert [row.error for row in result.rows].count("empty_mask") == 1
    assert changed > 50  # control: with the next seed many are others


def test_noise_is_the_cores_bit_for_bit():
    for seed, sample, position in ((0, 0, 0), (2**64 - 1, 3, 70), (12345, 0, 2**20)):
        key = noise_key(seed, sample, position)
        mine = noise.noise_key(seed, sample, position)
        assert mine % 2**64 == key
        want = -np.log(-np.log1p(-many_uniforms(key, 5000)))
        got = noise.gumbel(torch.tensor([mine]), 5000)[0].numpy()
        assert np.allclose(got, want, rtol=1e-14, atol=1e-14)
        assert not np.allclose(got, -np.log(-np.log1p(-many_uniforms(key ^ 1, 5000))))


def test_a_tie_goes_to_the_lower_id():
    arrays = random_weights(SPEC, seed=8)
    arrays["head"][700] = arrays["head"][300]
    driver = Driver(make_backend(SPEC, weight_map(arrays), kind="torch"))
    greedy = SamplingParams(temperature=0.0, logprobs=2, logit_bias=((300, 90.0), (700, 90.0)))
    driver.open(0, prompt_of(0), sampling=greedy)
    assert driver.step(driver.row(0, 0, prompt_of(0))).rows[0].tokens == (300,)


def test_penalties_follow_the_drafts_before_a_position():
    """Verified at once or one after another, drafts end alike; another history would not."""
    few = tuple((token, 60.0) for token in range(100, 106))
    heavy = SamplingParams(temperature=0.0, frequency_penalty=2.0, repetition_penalty=1.8, logit_bias=few)
    one = Driver(make_backend(SPEC, WEIGHTS, kind="torch"))
    one.open(0, prompt_of(1), sampling=heavy)
    tokens = [one.step(one.row(0, 0, prompt_of(1))).rows[0].tokens[0]]
    at = len(prompt_of(1))
    for _ in range(4):
        tokens += one.step(one.row(0, at, tokens[-1:])).rows[0].tokens
        at += 1
    many = Driver(make_backend(SPEC, WEIGHTS, kind="torch"))
    many.open(0, prompt_of(1), sampling=heavy)
    many.step(many.row(0, 0, prompt_of(1)))
    row = many.row(0, len(prompt_of(1)), tokens[:4], num_drafts=3)
    assert list(many.step(row).rows[0].tokens) == tokens[1:]
    plain = Driver(make_backend(SPEC, WEIGHTS, kind="torch"))
    plain.open(0, prompt_of(1), sampling=SamplingParams(temperature=0.0, logit_bias=few))
    plain.step(plain.row(0, 0, prompt_of(1), SAMPLE))
    row = plain.row(0, len(prompt_of(1)), tokens[:4], num_drafts=3)
    assert list(plain.step(row).rows[0].tokens) != tokens[1:]


def test_prompt_logprobs_fail_their_row_alone():
    arrays = random_weights(SPEC, seed=8)
    arrays["embed"][7] = np.nan
    driver = Driver(make_backend(SPEC, weight_map(arrays), kind="torch"))
    rows = []
    for slot, prompt in enumerate(([1, 2, 7, 3], [1, 2, 4, 3])):
        driver.open(slot, prompt)
        rows.append(driver.row(slot, 0, prompt, Output(OutputKind.PROMPT_LOGPROBS, 1, 3, 2, True)))
    bad, good = driver.step(*rows).rows
    assert (bad.error, bad.tokens, bad.prompt_logprobs) == ("invalid_logits", (), None)
    assert good.error is None
    assert [entry.token for entry in good.prompt_logprobs] == [2, 4, 3]
