import pytest
import torch
from tests.backend.torch.triton.paged import lay_out, place, poisoned

from penstock.backend.torch.triton import Batch, HeadNorm, Pages, Rotary, kv_write
from penstock.backend.torch.triton.kv_write import STORED
from penstock.backend.torch.triton.launch import CODED

B, H, K, D = 16, 6, 3, 24
ROWS, POSITIONS = [1, 17, 3, 1], [15, 0, 14, 32]


def heads(kind, seed=0):
    made = torch.Generator().manual_seed(seed)
    qkv = torch.randn(sum(ROWS), H + 2 * K, D, generator=made).to(kind)
    return qkv[:, :H], qkv[:, H : H + K], qkv[:, H + K :]


def rotary(dims, interleaved):
    angles = torch.arange(40)[:, None] * (10000.0 ** (-torch.arange(0, dims, 2) / dims))
    return Rotary(angles.cos(), angles.sin(), interleaved)


def token_positions():
    return [first + i for count, first in zip(ROWS, POSITIONS, strict=True) for i in range(count)]


def reference(x, rotary, weight=None, eps=0.0):
    x = x.double()
    if weight is not None:
        x = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    if rotary is None:
        return x
    half = rotary.cos.shape[1]
    cos, sin = (each.double()[token_positions()][:, None] for each in (rotary.cos, rotary.sin))
    out = x.clone()
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if rotary.interleaved else (slice(half), slice(half, 2 * half))
    )
    a, b = x[..., first], x[..., second]
    out[..., first], out[..., second] = a * cos - b * sin, b * cos + a * sin
    return out


def stored(pages, batch):
    """(keys, values) of the step's tokens as f64, in order."""
    where = [
        place(batch, s, first + i, B)
        for s, (n, first) in enumerate(zip(ROWS, POSITIONS, strict=True))
        for i in range(n)
    ]
    found = []
    for array, scales in ((pages.keys, pages.key_scales), (pages.values, pages.value_scales)):
        rows = torch.stack([array[p, i].double() for p, i in where])
        found.append(
            rows if scales is None else rows * torch.stack([scales[p, i] for p, i in where]).double()[..., None]
        )
    return found


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dims", [D, 16, 0])
def test_heads_are_rotated_and_stored(dims, interleaved):
    batch, total = lay_out(ROWS, POSITIONS, B)
    pages = poisoned(total, B, K, D, torch.float32)
    q, k, v = heads(torch.float32)
    turn = rotary(dims, interleaved) if dims else None
    got = kv_write((q, k, v), pages, batch, turn)
    keys, values = stored(pages, batch)
    assert torch.allclose(got.double(), reference(q, turn), atol=1e-6)
    assert torch.allclose(keys, reference(k, turn), atol=1e-6) and torch.equal(values, v.double())
    if dims:
        assert not torch.allclose(keys, reference(k, rotary(dims, not interleaved)), atol=1e-2)
    written = (~pages.keys.isnan()).any(-1).any(-1).sum()
    assert written == sum(ROWS)  # nothing else was touched


@pytest.mark.parametrize("interleaved", [False, True])
def test_heads_are_normed_first(interleaved):
    batch, total = lay_out(ROWS, POSITIONS, B)
    pages = poisoned(total, B, K, D, torch.float32)
    q, k, v = heads(torch.float32)
    norm = HeadNorm(torch.rand(D) + 0.5, torch.rand(D) + 0.5, 1e-6)
    turn = rotary(16, interleaved)
    got = kv_write((q, k, v), pages, batch, turn, norm)
    assert torch.allclose(got.double(), reference(q, turn, norm.q_weight, 1e-6), atol=1e-5)
    assert torch.allclose(stored(pages, batch)[0], reference(k, turn, norm.k_weight, 1e-6), atol=1e-5)
    assert not torch.allclose(got.double(), reference(q, turn, norm.k_weight, 1e-6), atol=1e-2)


@pytest.mark.parametrize("kind", STORED)
def test_stored_kinds_are_rounded_once(kind):
    batch, total = lay_out(ROWS, POSITIONS, B)
    pages = poisoned(total, B, K, D, kind)
    q, k, v = heads(torch.bfloat16)
    got = kv_write((q, k, v), pages, batch, rotary(D, False))
    assert torch.equal(got, reference(q, rotary(D, False)).to(torch.bfloat16)) or kind in CODED
    keys, values = stored(pages, batch)
    for found, exact in ((keys, reference(k, rotary(D, False))), (values, v.double())):
        if kind in CODED:
            most = exact.abs().amax(-1, keepdim=True)
            bound = most / 127 * 0.501 if kind == torch.int8 else exact.abs() / 16 * 1.01 + most / 448 / 1000
            assert ((found - exact).abs() <= bound).all() and not torch.equal(found, exact)
        else:
            assert torch.allclose(found, exact, rtol=0.004 if kind == torch.bfloat16 else 0, atol=1e-6)


@pytest.mark.parametrize("kind", CODED)
def test_scales_of_a_token_are_its_own(kind):
    batch, total = lay_out(ROWS, POSITIONS, B)
    pages = poisoned(total, B, K, D, kind)
    q, k, v = (each.clone() for each in heads(torch.float32))
    k[3, 1, 5], v[4, 2] = torch.inf, 0.0
    kv_write((q, k, v), pages, batch)
    where = [
        place(batch, s, first + i, B)
        for s, (n, first) in enumerate(zip(ROWS, POSITIONS, strict=True))
        for i in range(n)
    ]
    scales = torch.stack([pages.key_scales[p, i] for p, i in where])
    assert scales.isnan().sum() == 1 and scales[3, 1].isnan()
    assert torch.stack([pages.value_scales[p, i] for p, i in where])[4, 2] == 0
    most = 127 if kind == torch.int8 else 448
    assert torch.allclose(scales[0], k[0].abs().amax(-1) / most, rtol=1e-6)


def test_what_does_not_fit_is_refused():
    batch, total = lay_out(ROWS, POSITIONS, B)
    pages = poisoned(total, B, K, D, torch.int8)
    qkv = heads(torch.bfloat16)
    with pytest.raises(ValueError, match="key_scales belong"):
        kv_write(qkv, Pages(pages.keys, pages.values), batch)
    with pytest.raises(ValueError, match="k has shape"):
        kv_write((qkv[0], qkv[1][:, :2], qkv[2]), pages, batch)
    with pytest.raises(ValueError, match="row_starts has shape"):
        kv_write(qkv, pages, Batch(batch.tables, batch.row_starts[1:], batch.positions, 17))
    with pytest.raises(ValueError, match="a head has 24"):
        kv_write(qkv, pages, batch, rotary(26, False))
