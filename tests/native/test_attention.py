"""Attention over pages on every tier: dense float64 attention is the oracle; bits do not depend on pages or chunks."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import _native

TIERS = _native.tiers()
F32, BF16, INT8 = 0, 1, 2


def draw(count, tokens, heads, kv_heads, dim, seed=0):
    """q of the last `count` positions, k and v of all."""
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((count, heads, dim)).astype(np.float32)
    k = rng.standard_normal((tokens, kv_heads, dim)).astype(np.float32)
    v = rng.standard_normal((tokens, kv_heads, dim)).astype(np.float32)
    return q, k, v


def pages(tokens, page_tokens, seed=0):
    """Pages in any order, with unused ones between."""
    count = -(-tokens // page_tokens)
    return np.random.default_rng(seed).permutation(count + 3)[:count].astype(np.int32)


def as_stored(x, kv_type):
    """What a page gives back of x; int8 has one scale for each position and head."""
    if kv_type == F32:
        return x
    if kv_type == BF16:
        return x.astype(ml_dtypes.bfloat16).astype(np.float32)
    peak = np.abs(x).max(-1, keepdims=True)
    usable = np.where(peak < 2.0**-119, np.float32(np.inf), peak)  # then every code is 0
    return np.rint(x * (np.float32(127) / usable)) * np.where(usable == np.inf, 0, usable / np.float32(127))


def dense(q, k, v, first, *, scale, window=0, softcap=0.0, sinks=None):
    """[count, heads, dim] f64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = np.einsum("qhd,khd->hqk", q, k) * scale
    if softcap:
        scores = np.tanh(scores / softcap) * softcap
    ago = (first + np.arange(len(q)))[:, None] - np.arange(len(k))[None, :]
    scores = np.where((ago < 0) | (ago >= (window or len(k))), -np.inf, scores)
    top = scores.max(-1, keepdims=True)
    if sinks is not None:
        top = np.maximum(top, np.asarray(sinks, np.float64)[:, None, None])
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(np.asarray(sinks, np.float64)[:, None, None] - top)
    return np.einsum("hqk,khd->qhd", weights / total, v)


def run(tier, q, k, v, *, page_tokens=16, table=None, **options):
    table = pages(len(k), page_tokens) if table is None else table
    first = options.pop("first", len(k) - len(q))
    return _native.kernels(tier).attend(q, k, v, table, page_tokens, first, options.pop("scale", 0.25), **options)


SHAPES = [
    (1, 1, 1, 1, 16),
    (1, 40, 4, 2, 16),
    (5, 300, 6, 2, 20),
    (3, 257, 3, 3, 64),
    (7, 513, 8, 1, 33),
    (33, 90, 2, 1, 8),
]
VARIANTS = [{}, {"window": 7}, {"window": 260}, {"softcap": 3.0}, {"window": 40, "softcap": 2.0}]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_dense_attention_is_met(tier, shape, variant):
    q, k, v = draw(*shape)
    want = dense(q, k, v, len(k) - len(q), scale=0.25, **variant)
    np.testing.assert_allclose(run(tier, q, k, v, **variant), want, rtol=0, atol=3e-6)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("page_tokens", [16, 32, 512])
def test_sinks_take_their_share(tier, page_tokens):
    q, k, v = draw(4, 300, 4, 2, 32)
    sinks = np.array([3.0, -2.0, 0.0, 9.0], np.float32)
    want = dense(q, k, v, 296, scale=0.25, sinks=sinks)
    found = run(tier, q, k, v, page_tokens=page_tokens, sinks=sinks)
    np.testing.assert_allclose(found, want, rtol=0, atol=3e-6)
    assert np.abs(run(tier, q, k, v) - want).max() > 0.01  # control: without them


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("window", [1, 40, 300])
def test_sinks_stand_beside_a_window(tier, window):
    q, k, v = draw(9, 700, 4, 2, 16)
    sinks = np.array([3.0, -2.0, 0.0, 9.0], np.float32)
    want = dense(q, k, v, 691, scale=0.25, window=window, sinks=sinks)
    np.testing.assert_allclose(run(tier, q, k, v, window=window, sinks=sinks), want, atol=2e-6)
    assert np.abs(dense(q, k, v, 691, scale=0.25, window=window) - want).max() > 0.1  # control


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize("kv_type", [F32, BF16, INT8])
@pytest.mark.parametrize("sinks", [None, np.array([3.0, -2.0, 0.0, 9.0], np.float32)], ids=["plain", "sinks"])
def test_nothing_behind_the_window_is_read(tier, kv_type, count, sinks):
    """Poison lies up to the tile in which the first query's window begins; one tile further it shows."""
    q, k, v = draw(count, 5000, 4, 2, 16)
    first, window = 5000 - count, 100
    begin = (first - window + 1) // 16 * 16
    options = {"window": window, "sinks": sinks}
    want = dense(q, as_stored(k, kv_type), as_stored(v, kv_type), first, scale=0.25, **options)
    for end, finite in ((begin, True), (begin + 32, False)):
        poisoned_k, poisoned_v = k.copy(), v.copy()
        poisoned_k[:end], poisoned_v[:end] = np.nan, np.nan
        found = run(tier, q, poisoned_k, poisoned_v, kv_type=kv_type, **options)
        assert np.isfinite(found[0]).all() == finite
        if finite:
            np.testing.assert_allclose(found, want, atol=2e-6)


HEAD_SIZES = [(1, 40, 1, 1, 64), (3, 280, 4, 2, 48), (5, 600, 7, 1, 80), (9, 300, 6, 3, 96), (2, 513, 8, 2, 256)]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("kv_type", [BF16, INT8])
@pytest.mark.parametrize("shape", HEAD_SIZES)
@pytest.mark.parametrize("variant", [{}, {"window": 70, "softcap": 2.0}, {"sinks": True}])
def test_keys_and_values_are_read_as_stored(tier, kv_type, shape, variant):
    q, k, v = draw(*shape)
    options = variant | {"scale": 1 / math.sqrt(shape[-1])}
    if "sinks" in variant:
        options["sinks"] = np.linspace(-2, 3, shape[2], dtype=np.float32)
    rounded = [as_stored(x, kv_type) for x in (k, v)]
    found = run(tier, q, k, v, kv_type=kv_type, page_tokens=32, **options)
    first = len(k) - len(q)
    np.testing.assert_allclose(found, dense(q, *rounded, first, **options), rtol=0, atol=3e-6)
    assert np.abs(found - dense(q, k, v, first, **options)).max() > 1e-4  # control: unrounded
    one_scale = [as_stored(x.reshape(len(x), 1, -1), kv_type).reshape(x.shape) for x in (k, v)]
    apart = np.abs(found - dense(q, *one_scale, first, **options)).max()
    assert (apart > 1e-4) == (kv_type == INT8 and shape[3] > 1)  # control: a scale for each token alone


HEAD_VALUES = st.lists(st.floats(-(2.0**122), 2.0**122, width=32), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(HEAD_VALUES, st.integers(-120, 60), st.sampled_from(TIERS))
def test_int8_heads_come_back_within_half_a_step(values, exponent, tier):
    """One position alone gives its values as they are stored."""
    x = np.clip(np.ldexp(np.array(values), exponent), -1e38, 1e38).astype(np.float32).reshape(1, 1, -1)
    found = run(tier, np.zeros_like(x), x, x, kv_type=INT8)
    np.testing.assert_array_equal(found, as_stored(x, INT8).astype(np.float32))
    peak = np.abs(x).max()
    assert np.abs(found.astype(np.float64) - x).max() <= max(float(peak) / 254 * (1 + 1e-5), 2.0**-119)
    if peak >= 2.0**-119:
        np.testing.assert_allclose(np.abs(found).max(), peak, rtol=1e-6)


@pytest.mark.parametrize("tier", TIERS)
def test_int8_zeros_are_exact(tier):
    q, k, v = draw(1, 20, 2, 1, 24)
    k[3], v[:] = 0, 0
    assert not run(tier, q, k, v, kv_type=INT8).any()


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("place", ["keys", "values"])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_becomes_an_int8_code(tier, place, bad):
    """Every query that sees the position has a result that is not finite, in the heads that share the kv head alone."""
    q, k, v = draw(3, 90, 4, 2, 20)
    clean = run(tier, q, k, v, kv_type=INT8)
    (k if place == "keys" else v)[40, 1, 7] = bad
    found = run(tier, q, k, v, kv_type=INT8)
    np.testing.assert_array_equal(found[:, :2], clean[:, :2])
    assert not np.isfinite(found[:, 2:]).any()
    assert np.isfinite(run(tier, q, k, v, kv_type=INT8, window=20)).all()


@pytest.mark.parametrize("tier", TIERS)
def test_scores_far_apart_do_not_overflow(tier):
    q, k, v = draw(2, 600, 2, 1, 16)
    found = run(tier, q * 40, k, v, scale=1.0)
    np.testing.assert_allclose(found, dense(q * 40, k, v, 598, scale=1.0), rtol=0, atol=2e-4)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bits_depend_on_the_sequence_alone(data):
    """Tier, page size, pages' places, how many queries go together and what lies behind them change nothing."""
    tokens, group = data.draw(st.integers(1, 600)), data.draw(st.sampled_from([1, 2, 3, 7]))
    kv_heads, dim = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([8, 16, 40, 144]))
    count = data.draw(st.integers(1, min(tokens, 9)))
    options = {
        "kv_type": data.draw(st.sampled_from([F32, BF16, INT8])),
        "window": data.draw(st.sampled_from([0, 0, 5, 200])),
        "softcap": data.draw(st.sampled_from([0.0, 4.0])),
        "scale": 1 / math.sqrt(dim),
    }
    q, k, v = draw(count, tokens, group * kv_heads, kv_heads, dim, seed=tokens)
    want = run("scalar", q, k, v, **options)
    assert np.isfinite(want).all()
    page_tokens = data.draw(st.sampled_from([16, 48, 128]))
    later = data.draw(st.integers(0, 20))
    noise = np.full((later, kv_heads, dim), np.nan, np.float32)
    k, v = np.concatenate([k, noise]), np.concatenate([v, noise])
    table = pages(len(k), page_tokens, seed=data.draw(st.integers(0, 9)))
    tier, split = data.draw(st.sampled_from(TIERS)), data.draw(st.integers(0, count))
    first = tokens - count
    parts = [
        run(tier, part, k, v, page_tokens=page_tokens, table=table, first=at, **options)
        for part, at in ((q[:split], first), (q[split:], first + split))
        if len(part)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), want)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("kv_type", [F32, BF16, INT8])
@pytest.mark.parametrize("group", [2, 5])
@pytest.mark.parametrize("window", [0, 90])
def test_a_whole_prompt_gives_each_query_what_it_gets_alone(tier, kv_type, group, window):
    """Blocks of every number of rows, tiles that a part of them sees, the first position and the ends of splits."""
    tokens, options = 530, {"kv_type": kv_type, "window": window, "page_tokens": 32}
    q, k, v = draw(tokens, tokens, group, 1, 24)
    found = run(tier, q, k, v, **options)
    rounded = [as_stored(x, kv_type) for x in (k, v)]
    np.testing.assert_allclose(found, dense(q, *rounded, 0, scale=0.25, window=window), rtol=0, atol=3e-6)
    for at in (0, 1, 15, 16, 63, 255, 256, 300, 511, 512, 529):
        alone = run(tier, q[at : at + 1], k, v, first=at, **options)
        np.testing.assert_array_equal(alone[0], found[at])
        if at > 0:  # control: one position less
            assert not np.array_equal(run(tier, q[at : at + 1], k, v, first=at - 1, **options)[0], found[at])


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("kv_type", [F32, BF16, INT8])
def test_control_one_changed_key_is_seen(tier, kv_type):
    q, k, v = draw(1, 300, 2, 1, 16)
    want = run(tier, q, k, v, kv_type=kv_type)
    k[11, 0, 3] += 0.1
    assert not np.array_equal(run(tier, q, k, v, kv_type=kv_type), want)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"page_tokens": 17}, "page_tokens"),
        ({"page_tokens": 0, "table": np.arange(3, dtype=np.int32)}, "page_tokens"),
        ({"table": np.array([0], np.int32)}, "every position"),
        ({"table": np.array([0, -1, 1], np.int32)}, "page of the table"),
        ({"table": np.array([0, 5000, 1], np.int32)}, "page of the table"),
        ({"first": 39}, "behind the last key"),
        ({"first": -1}, "behind the last key"),
        ({"window": -1}, "window"),
        ({"kv_type": 3}, "kv_type"),
        ({"kv_type": -1}, "kv_type"),
        ({"sinks": np.zeros(3, np.float32)}, "sinks"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    q, k, v = draw(2, 40, 4, 2, 16)
    with pytest.raises(ValueError, match=message):
        run("scalar", q, k, v, **changes)
