"""Row operations on every tier against float64, and the same bits on all of them at every length."""

import math

import numpy as np
import pytest

from penstock import _native

TIERS = _native.tiers()
LENGTHS = [1, 2, 15, 16, 17, 31, 33, 64, 100, 4096, 4113]


def values(count, seed=0, scale=2.0):
    return (np.random.default_rng(seed).standard_normal(count) * scale).astype(np.float32)


def each_tier(call):
    """The result of `call(kernels)`, the same bits on every tier."""
    first, *others = [call(_native.kernels(tier)) for tier in TIERS]
    for other in others:
        np.testing.assert_array_equal(other, first)
    return first


def close(found, want, ulps=8):
    want = np.asarray(want, np.float64)
    np.testing.assert_allclose(found, want, rtol=ulps * 2.0**-23, atol=ulps * 2.0**-23 * max(1e-30, np.abs(want).max()))


@pytest.mark.parametrize("count", LENGTHS)
def test_rms_norm(count):
    x, weight = values(count), values(count, 1)
    wide = x.astype(np.float64)
    want = wide / np.sqrt((wide * wide).mean() + 1e-5) * weight
    close(each_tier(lambda kernels: kernels.rms_norm(x, weight, 1e-5)), want)


@pytest.mark.parametrize("pairs", [1, 3, 16, 17, 32, 64])
@pytest.mark.parametrize("interleaved", [False, True])
def test_rotate_turns_the_first_pairs_only(pairs, interleaved):
    x, angles = values(2 * pairs + 5), np.random.default_rng(2).uniform(-4, 4, pairs)
    cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    found = each_tier(lambda kernels: kernels.rotate(x, cosines, sines, interleaved))
    first = np.arange(0, 2 * pairs, 2) if interleaved else np.arange(pairs)
    second = first + (1 if interleaved else pairs)
    turned = (x[first] + 1j * x[second].astype(np.float64)) * (cosines + 1j * sines.astype(np.float64))
    want = x.astype(np.float64)
    want[first], want[second] = turned.real, turned.imag
    close(found, want)
    np.testing.assert_array_equal(found[2 * pairs :], x[2 * pairs :])


def activated(gate, kind):
    gate = gate.astype(np.float64)
    if kind == 0:
        return gate / (1 + np.exp(-gate))
    if kind == 1:
        return 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    if kind == 3:
        return gate / (1 + np.exp(-1.702 * gate))
    return 0.5 * gate * (1 + np.array([math.erf(g / math.sqrt(2)) for g in gate]))


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
@pytest.mark.parametrize("clamp", [0.0, 1.5])
@pytest.mark.parametrize("count", [1, 16, 37, 4096])
def test_gated(kind, clamp, count):
    gate, up = values(count, 3, 4.0), values(count, 4, 4.0)
    low, high = (np.minimum(gate, clamp), np.clip(up, -clamp, clamp)) if clamp else (gate, up)
    want = activated(low, kind) * (high.astype(np.float64) + 1 if kind == 3 else high)
    close(each_tier(lambda kernels: kernels.gated(gate, up, kind, clamp)), want, ulps=16)


def test_control_kinds_of_gate_differ():
    gate, up = values(64), values(64, 1)
    silu, tanh, exact, shifted = (_native.kernels().gated(gate, up, kind) for kind in range(4))
    assert np.abs(silu - shifted).max() > 0.01
    assert np.abs(silu - tanh).max() > 0.01
    assert 1e-5 < np.abs(tanh - exact).max() < 0.01


@pytest.mark.parametrize("count", LENGTHS)
def test_add_scaled(count):
    x, y = values(count), values(count, 1)
    want = x.astype(np.float64) + y * np.float64(np.float32(0.7))
    close(each_tier(lambda kernels: kernels.add_scaled(x, y, 0.7)), want, ulps=2)


@pytest.mark.parametrize("count", [1, 17, 1000])
@pytest.mark.parametrize("cap", [0.0, 30.0])
def test_cap_logits(count, cap):
    x = values(count, 5, 40.0)
    want = x * 0.5 if not cap else np.tanh(x.astype(np.float64) * 0.5 / cap) * cap
    close(each_tier(lambda kernels: kernels.cap_logits(x, 0.5, cap)), want)


@pytest.mark.parametrize("count", LENGTHS)
def test_scan_logits(count):
    x = values(count, 6)
    x[count // 2] = x[count - 1] = 50.0
    assert each_tier(lambda kernels: kernels.scan_logits(x)) == (50.0, count // 2, True)


@pytest.mark.parametrize("count", LENGTHS)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_scan_logits_sees_what_is_not_finite(count, poison):
    for place in {0, count // 2, count - 1}:
        x = values(count, 7)
        x[place] = poison
        for tier in TIERS:
            assert _native.kernels(tier).scan_logits(x)[2] is False


@pytest.mark.parametrize("count", LENGTHS)
def test_exponentials(count):
    x = values(count, 8, 20.0)
    x[0] = -np.inf
    top = float(x.max()) if count > 1 else 0.0
    total, found = _native.kernels("scalar").exponentials(x, top, 0.5)
    want = np.exp((x.astype(np.float64) - top) * 0.5)
    close(found, want, ulps=64)
    assert total == pytest.approx(want.sum(), rel=1e-5, abs=1e-30)
    for tier in TIERS:
        other, theirs = _native.kernels(tier).exponentials(x, top, 0.5)
        assert other == total
        np.testing.assert_array_equal(theirs, found)


def test_misfits_are_refused():
    kernels, x, y = _native.kernels(), values(8), values(9)
    for call in (
        lambda: kernels.rms_norm(x, y, 1e-5),
        lambda: kernels.rotate(x, y, y, False),
        lambda: kernels.rotate(x, x[:2], x[:3], False),
        lambda: kernels.gated(x, y, 0),
        lambda: kernels.gated(x, x, 4),
        lambda: kernels.add_scaled(x, y, 1.0),
        lambda: kernels.scan_logits(x[:0]),
    ):
        with pytest.raises(ValueError):
            call()
