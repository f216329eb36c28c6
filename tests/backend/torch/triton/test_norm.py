import pytest
import torch

from penstock.backend.torch.triton import rms_norm, rms_norm_codes, rows_as_codes
from penstock.backend.torch.triton.norm import MAX_WIDTH

KINDS = [torch.bfloat16, torch.float32]


def reference(x, weight, eps=1e-5):
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def made(rows, width, kind=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(rows, width, generator=generator)).to(kind), torch.randn(width, generator=generator)


@pytest.mark.parametrize("width", [1, 63, 64, 65, 200])
def test_norms_are_those_of_float64(width):
    x, weight = made(5, width)
    want = reference(x, weight)
    assert torch.allclose(rms_norm(x, weight, 1e-5).double(), want, rtol=1e-6, atol=1e-6)
    assert width == 1 or not torch.allclose(rms_norm(x, weight.roll(1), 1e-5).double(), want, rtol=1e-3)
    assert torch.allclose(rms_norm(x.bfloat16(), weight, 1e-5).double(), reference(x.bfloat16(), weight), rtol=0.0041)


@pytest.mark.parametrize("kind", KINDS)
def test_the_branch_joins_the_residual_first(kind):
    x, weight = made(4, 70, kind)
    branch = made(4, 70, kind, 1)[0]
    want = (x.double() + 0.25 * branch.double()).to(kind)
    before = x.clone()
    got = rms_norm(x, weight, 1e-5, branch, 0.25)
    assert torch.equal(x, want) and not torch.equal(x, before)
    assert torch.equal(got, rms_norm(want, weight, 1e-5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_among_others(kind):
    x, weight = made(33, 130, kind)
    x[7, 3] = torch.nan
    together = rms_norm(x, weight, 1e-5)
    for row in (0, 6, 8, 32):
        assert torch.equal(together[row : row + 1], rms_norm(x[row : row + 1], weight, 1e-5))
    assert together[7].isnan().all() and not together[8].isnan().any()


def test_codes_are_the_nearest_to_even():
    x = torch.tensor([[127.0, 0.5, 1.5, -2.5, -127.0, 126.49], [2.0, 1.0, 0.0, -1.0, -2.0, 0.25]])
    codes, scales = rows_as_codes(x, torch.int8)
    assert scales.tolist() == [1.0, pytest.approx(2 / 127)]
    assert codes.tolist() == [[127, 0, 2, -2, -127, 126], [127, 64, 0, -64, -127, 16]]


def test_normed_codes_are_codes_of_norms():
    x, weight = made(9, 200)
    codes, scales = rms_norm_codes(x, weight, 1e-5, torch.int8)
    want = rows_as_codes(rms_norm(x, weight, 1e-5), torch.int8)
    assert torch.equal(codes, want.codes) and torch.equal(scales, want.scales)
    error = codes.double() * scales.double()[:, None] - reference(x, weight)
    assert (error.abs() <= scales.double()[:, None] * 0.5001).all() and error.abs().max() > 0


def test_rows_without_size_or_number():
    x = torch.ones(4, 40)
    x[0], x[1, 39], x[2, 0] = 0.0, torch.nan, -torch.inf
    codes, scales = rows_as_codes(x, torch.int8)
    assert scales[0] == 0 and scales[1].isnan() and scales[2].isnan() and scales[3] == 1 / torch.tensor(127.0)
    assert (codes[0] == 0).all() and (codes[3] == 127).all()


def test_codes_of_e4m3_fill_their_range():
    x, _ = made(4, 100)
    codes, scales = rows_as_codes(x, torch.float8_e4m3fn)
    assert (codes.float().abs().amax(-1) == 448).all()
    want = (x * (448 / x.abs().amax(-1, keepdim=True))).to(torch.float8_e4m3fn)
    assert torch.equal(codes.float(), want.float()) and torch.allclose(scales, x.abs().amax(-1) / 448, rtol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=f"{MAX_WIDTH} at most"):
        rms_norm(torch.empty(1, MAX_WIDTH + 1), torch.empty(MAX_WIDTH + 1), 1e-5)
    with pytest.raises(ValueError, match="weight has shape"):
        rms_norm(torch.empty(1, 8), torch.empty(7), 1e-5)
    with pytest.raises(ValueError, match="branch has shape"):
        rms_norm(torch.empty(1, 8), torch.empty(8), 1e-5, torch.empty(2, 8))
    with pytest.raises(ValueError, match="codes of"):
        rows_as_codes(torch.empty(1, 8), torch.int16)
    assert rms_norm(torch.empty(0, 8), torch.empty(8), 1e-5).shape == (0, 8)
