"""Conversions under the interpreter, over every pattern or around every border, beside what it makes of them itself."""

import pytest
import torch
import triton
import triton.language as tl

from penstock.backend.torch.triton.numbers import nearest, rounded, widened


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")

    @triton.jit
    def widen(x, out, N: tl.constexpr, WIDEN: tl.constexpr):
        at = tl.arange(0, N)
        tl.store(out + at, widened(tl.load(x + at), WIDEN))

    @triton.jit
    def round_all(x, out, N: tl.constexpr, WIDEN: tl.constexpr):
        at = tl.arange(0, N)
        tl.store(out + at, rounded(tl.load(x + at), out.dtype.element_ty, WIDEN))

    @triton.jit
    def nearest_all(x, out, N: tl.constexpr):
        at = tl.arange(0, N)
        tl.store(out + at, nearest(tl.load(x + at)))

    return widen, round_all, nearest_all


def differ(got, want):
    return int((~((got == want) | (got.isnan() & want.isnan()))).sum())


@pytest.mark.parametrize(("kind", "bits"), [(torch.bfloat16, 16), (torch.float16, 16), (torch.float8_e4m3fn, 8)])
def test_every_pattern_is_widened_exactly(kernels, kind, bits):
    patterns = torch.arange(2**bits, dtype=torch.int32).to(torch.int16 if bits == 16 else torch.uint8)
    x, out = patterns.view(kind), torch.empty(2**bits)
    kernels[0][(1,)](x, out, N=2**bits, WIDEN=True)
    assert differ(out, x.float()) == 0
    kernels[0][(1,)](x, out, N=2**bits, WIDEN=False)
    assert (differ(out, x.float()) > 0) == (kind != torch.float16)  # why the kernels do not leave it to the interpreter


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn])
def test_values_are_rounded_to_even(kernels, kind):
    made = torch.Generator().manual_seed(0)
    x = torch.randn(8192, generator=made) * torch.exp(4 * torch.randn(8192, generator=made))
    exact = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn).float()
    halves = (exact[:126] + exact[1:127]) / 2
    x[:126], x[126:252], x[252:508] = halves, -halves, exact
    x[508:764] = (torch.arange(256, dtype=torch.int32) * 0x8000 + 0x3F800000).view(torch.float32)  # ties of bf16
    x = x.clamp(-448, 448)
    out = torch.empty(8192, dtype=kind)
    kernels[1][(1,)](x, out, N=8192, WIDEN=True)
    assert differ(out.float(), x.to(kind).float()) == 0
    kernels[1][(1,)](x, out, N=8192, WIDEN=False)
    assert differ(out.float(), x.to(kind).float()) > 0


def test_e4m3_saturates(kernels):
    x, out = torch.tensor([500.0, -1e30, 448.0, 464.0]), torch.empty(4, dtype=torch.float8_e4m3fn)
    kernels[1][(1,)](x, out, N=4, WIDEN=True)
    assert out.float().tolist() == [448.0, -448.0, 448.0, 448.0]


def test_nearest_integers(kernels):
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 3.49999, 1e6 + 0.5, -7.75])
    out = torch.empty(8)
    kernels[2][(1,)](x, out, N=8)
    assert torch.equal(out, x.round())
