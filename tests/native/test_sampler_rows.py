"""The sampler's short ways (outlines of logits, blocks of noise) against the plain one, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.native.plain_sampler import (
    EMPTY_MASK,
    INVALID_LOGITS,
    many_uniforms,
    noise_bits,
    noise_key,
    plain_sample,
    uniforms,
)

from penstock import _native
from penstock.backend.cpu.packing import to_native
from penstock.formats import Layout, PackedMatrix

TIERS = _native.tiers()
BEST = _native.kernels()
POOL = _native.Pool(2)


def sampling_of(params):
    out = _native.Sampling()
    for name, value in params.items():
        setattr(out, name, value)
    return out


def outline_of(logits):
    """The greatest of each 32, NaN where one is not finite.  # [R, V] → [R, ceil(V / 32)]."""
    rows, vocab = logits.shape
    blocks = -(-vocab // 32)
    padded = np.full((rows, blocks * 32), -np.inf, np.float32)
    padded[:, :vocab] = logits
    maxima = padded.reshape(rows, blocks, 32).max(axis=2)
    finite = np.ones((rows, blocks * 32), bool)
    finite[:, :vocab] = np.isfinite(logits)
    maxima[~finite.reshape(rows, blocks, 32).all(axis=2)] = np.nan
    return maxima


def sample(logits, rows, position=0, masks=None, kernels=BEST, maxima=None):
    """Results of `rows` = [(params, tokens, num_prompt)]; what was lent must come back as it was."""
    lent, outline = logits.copy(), outline_of(logits) if maxima is None else maxima.copy()
    before = outline.copy()
    made = [_native.SampleRow(sampling_of(params), list(tokens), num_prompt) for params, tokens, num_prompt in rows]
    found = _native.sample_rows(POOL, kernels, lent, outline, made, position, masks)
    np.testing.assert_array_equal(lent, logits)
    np.testing.assert_array_equal(outline, before)
    return found


def plain(logits, rows, position=0, masks=None, kernels=BEST):
    masks = masks or [None] * len(rows)
    return [
        plain_sample(kernels, x, params, tokens, num_prompt, position, mask)
        for x, (params, tokens, num_prompt), mask in zip(logits, rows, masks, strict=True)
    ]


def random_logits(rng, vocab):
    kind = rng.integers(0, 4)
    if kind == 0:
        return rng.normal(0, rng.choice([0.1, 1.0, 5.0, 40.0]), vocab)
    if kind == 1:
        return np.round(rng.normal(0, 3, vocab))  # many ties
    if kind == 2:
        return np.full(vocab, rng.normal())
    out = rng.normal(-3, 2, vocab)
    out[rng.integers(0, vocab, 3)] += rng.choice([5.0, 15.0, 60.0])
    return out


def random_params(rng, vocab):
    def one_of(*values):
        return values[rng.integers(0, len(values))]

    ids = [int(t) for t in rng.integers(0, vocab, 6)]
    params = {
        "temperature": one_of(0.0, 0.3, 1.0, 1.0, 1.7, 30.0, 1e-9),
        "top_k": one_of(0, 0, 0, 1, 7, 64, 65, 400),
        "top_p": one_of(1.0, 1.0, 0.9, 0.2),
        "min_p": one_of(0.0, 0.0, 0.03, 1.0),
        "typical_p": one_of(1.0, 1.0, 1.0, 0.8),
        "logprobs": one_of(-1, 0, 5, 70),
        "seed": int(rng.integers(0, 2**63)) * 2,
        "sample": int(rng.integers(0, 9)),
    }
    if rng.random() < 0.5:
        params |= {
            "repetition": one_of(1.0, 1.4, 0.7),
            "presence": one_of(0.0, 1.5),
            "frequency": one_of(0.0, 0.3, -0.2),
        }
    if rng.random() < 0.3:
        params |= {"bias": [(t, float(b)) for t, b in zip(ids, rng.normal(0, 20, 6), strict=True)]}
    if rng.random() < 0.3:
        params |= {"min_tokens": one_of(1, 10_000), "end_ids": ids[:3]}
    return params


def random_mask(rng, vocab):
    density = rng.choice([0.0, 0.02, 0.5, 0.99])
    return np.packbits(rng.random(vocab) < density, bitorder="little").tobytes() if rng.random() < 0.4 else None


def random_rows(rng, vocab, count):
    rows = []
    for _ in range(count):
        tokens = [int(t) for t in rng.integers(0, vocab, rng.choice([0, 3, 200]))]
        rows.append((random_params(rng, vocab), tokens, int(rng.integers(0, len(tokens) + 1))))
    return rows


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 31, 32, 33, 64, 100, 1000, 3001]), st.sampled_from(TIERS))
def test_every_way_of_choosing_agrees_with_the_plain_one(seed, vocab, tier):
    rng, kernels = np.random.default_rng(seed), _native.kernels(tier)
    count = int(rng.integers(1, 6))
    logits = np.stack([random_logits(rng, vocab) for _ in range(count)]).astype(np.float32)
    rows, masks = random_rows(rng, vocab, count), [random_mask(rng, vocab) for _ in range(count)]
    position = int(rng.integers(0, 10_000))
    assert sample(logits, rows, position, masks, kernels) == plain(logits, rows, position, masks, kernels)


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0.5}, {"top_k": 50}, {"min_p": 0.02}, {"top_k": 300, "top_p": 0.9}]
)
def test_large_vocabularies_agree_too(fields):
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 3, (2, 151_936)).astype(np.float32)
    logits[1] = np.round(logits[1])
    tokens = [int(t) for t in rng.integers(0, 151_936, 500)]
    base = fields | {"seed": 9, "logprobs": 3}
    rows = [(base, (), 0), (base | {"repetition": 1.3}, tokens, 40)]
    assert sample(logits, rows) == plain(logits, rows)


def test_control_another_position_chooses_otherwise():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1, (8, 1000)).astype(np.float32)
    rows = [({"seed": i}, (), 0) for i in range(8)]
    assert sample(logits, rows, 3) == plain(logits, rows, 3) != plain(logits, rows, 4)


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"top_k": 5}, {"min_p": 0.5}, {"temperature": 0.2}])
def test_control_an_outline_that_hides_the_best_is_seen(fields):
    """Nothing but the outline says where the best logits lie: a wrong one must give another token."""
    logits = np.random.default_rng(2).normal(0, 1, (1, 1000)).astype(np.float32)
    logits[0, 500:505] = 30.0
    rows = [(fields | {"seed": 3}, (), 0)]
    wrong = outline_of(logits)
    wrong[0, 500 // 32] = -50.0
    assert sample(logits, rows) == plain(logits, rows) != sample(logits, rows, maxima=wrong)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_fails_alone(bad):
    logits = np.random.default_rng(6).normal(0, 1, (4, 333)).astype(np.float32)
    logits[2, 332] = bad
    rows = [({"seed": 5, "temperature": t}, (), 0) for t in (0.0, 1.0, 1.0, 0.5)]
    found = sample(logits, rows)
    assert found == plain(logits, rows)
    assert [error for _, error, _ in found] == [0, 0, INVALID_LOGITS, 0]


def test_rows_without_an_allowed_token_fail_alone():
    logits = np.zeros((3, 40), np.float32)
    rows = [({"seed": 5}, (), 0)] * 3
    found = sample(logits, rows, masks=[None, bytes(5), b"\x00\x00\x00\x00\x80"])
    assert [(token, error) for token, error, _ in found][1:] == [(-1, EMPTY_MASK), (39, 0)]
    assert found[0][1] == 0


def test_penalties_that_overflow_are_an_error_not_a_token():
    """A repetition penalty that is nought as a float makes infinities, between which no draw is possible."""
    rows = [({"seed": 5, "repetition": 1e-60}, [1], 0)]
    assert sample(np.ones((1, 40), np.float32), rows) == [(-1, INVALID_LOGITS, None)]


@pytest.mark.parametrize("tier", TIERS)
def test_least_noise_of_blocks(tier):
    kernels, key, blocks = _native.kernels(tier), noise_key(2**64 - 3, 7, 2**40), [0, 5, 3, 4747, 2**26 - 1]
    want = [min(noise_bits(key, 32 * block + i) for i in range(32)) for block in blocks]
    assert list(_native.least_noise(kernels, key, blocks)) == want
    assert list(_native.least_noise(kernels, key + 1, blocks)) != want


def test_the_plain_noise_is_one_function():
    key = noise_key(1, 0, 5)
    np.testing.assert_array_equal(uniforms(key, range(100)), many_uniforms(key, 100))


def float_matrix(rng, n, k):
    values = rng.standard_normal((n, k), dtype=np.float32)
    return to_native(PackedMatrix(Layout.F32, n, k, values.view(np.uint8).reshape(-1)))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("vocab", "rows"), [(5, 1), (64, 3), (1003, 7), (70, 200), (4100, 64)])
def test_the_vocabulary_pass_outlines_its_logits(tier, vocab, rows):
    rng, kernels = np.random.default_rng(vocab), _native.kernels(tier)
    head, x = float_matrix(rng, vocab, 48), rng.standard_normal((rows, 48), dtype=np.float32)
    x[rows // 2] = np.nan if rows > 1 else x[0]
    want, logits = np.zeros((rows, vocab), np.float32), np.zeros((rows, vocab), np.float32)
    maxima = np.zeros((rows, -(-vocab // 32)), np.float32)
    _native.linear(POOL, kernels, head, x, None, want)
    _native.head_rows(POOL, kernels, head, x, logits, maxima)
    np.testing.assert_array_equal(logits, want)
    np.testing.assert_array_equal(maxima, outline_of(want))


def test_misfits_are_refused():
    logits, maxima = np.zeros((2, 40), np.float32), np.zeros((2, 2), np.float32)
    rows = [_native.SampleRow(sampling_of({}), [], 0) for _ in range(2)]
    far = _native.SampleRow(sampling_of({}), [40], 0)
    biased = _native.SampleRow(sampling_of({"bias": [(-1, 1.0)]}), [], 0)
    ending = _native.SampleRow(sampling_of({"end_ids": [40]}), [], 0)
    head, x = float_matrix(np.random.default_rng(0), 40, 16), np.zeros((2, 16), np.float32)
    for call in (
        lambda: _native.sample_rows(POOL, BEST, logits, maxima[:, :1].copy(), rows, 0),
        lambda: _native.sample_rows(POOL, BEST, logits, maxima, rows[:1], 0),
        lambda: _native.sample_rows(POOL, BEST, logits, maxima, [rows[0], rows[0]], 0),
        lambda: _native.sample_rows(POOL, BEST, logits, maxima, rows, 0, [None, bytes(4)]),
        lambda: _native.sample_rows(POOL, BEST, logits, maxima, rows, 0, [None]),
        *(
            lambda row=row: _native.sample_rows(POOL, BEST, logits, maxima, [rows[0], row], 0)
            for row in (far, biased, ending)
        ),
        lambda: _native.SampleRow(sampling_of({}), [1], 2),
        lambda: _native.head_rows(POOL, BEST, head, x[:1], logits, maxima),
        lambda: _native.head_rows(POOL, BEST, head, x[:, :8].copy(), logits, maxima),
    ):
        with pytest.raises(ValueError):
            call()
