import pytest
import torch

from penstock.backend.torch.triton import Codes, linear_scaled, rows_as_codes
from penstock.backend.torch.triton.launch import CODED


def operands(rows, channels, inputs, kind):
    made = torch.Generator().manual_seed(0)
    x, w = torch.randn(rows, inputs, generator=made), torch.randn(channels, inputs, generator=made)
    return (
        rows_as_codes(x, kind),
        rows_as_codes(w, kind),
        torch.randn(channels, generator=made),
        x.double() @ w.double().T,
    )


def exact(x, w):
    return (x.codes.double() @ w.codes.double().T) * x.scales.double()[:, None] * w.scales.double()


@pytest.mark.parametrize("kind", CODED)
@pytest.mark.parametrize(("rows", "channels", "inputs"), [(1, 1, 16), (3, 65, 128), (17, 70, 200)])
def test_products_are_those_of_the_codes(kind, rows, channels, inputs):
    x, w, bias, floats = operands(rows, channels, inputs, kind)
    got = linear_scaled(x, w, torch.float32, bias).double()
    want = exact(x, w) + bias.double()
    assert torch.allclose(got, want, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got, floats + bias.double(), rtol=1e-5, atol=1e-5)  # codes are not the floats
    other = w._replace(scales=w.scales * 1.01)
    assert not torch.allclose(linear_scaled(x, other, torch.float32, bias).double(), want, rtol=1e-5, atol=1e-5)
    assert torch.equal(linear_scaled(x, w, torch.bfloat16, bias), linear_scaled(x, w, torch.float32, bias).bfloat16())


def test_sums_of_int8_are_exact():
    x = Codes(torch.full((1, 4096), 127, dtype=torch.int8), torch.ones(1))
    w = Codes(torch.full((2, 4096), -127, dtype=torch.int8), torch.ones(2))
    w.codes[1, 0] = -126
    want = torch.tensor([[-(127**2) * 4096, -(127**2) * 4096 + 127]], dtype=torch.float64)
    assert torch.equal(linear_scaled(x, w, torch.float32), want.float())


@pytest.mark.parametrize("kind", CODED)
def test_bits_of_a_row_do_not_depend_on_the_others(kind):
    x, w, _, _ = operands(530, 40, 200, kind)
    kept = [0, 15, 256, 529]
    alone = torch.cat([linear_scaled(Codes(x.codes[i : i + 1], x.scales[i : i + 1]), w, torch.float32) for i in kept])
    for rows in (16, 257, 530):
        found = linear_scaled(Codes(x.codes[:rows], x.scales[:rows]), w, torch.float32)
        some = [i for i in kept if i < rows]
        assert torch.equal(found[some], alone[: len(some)])


def test_a_scale_of_nan_fails_its_row_only():
    x, w, _, _ = operands(3, 66, 128, torch.int8)
    x.scales[1] = torch.nan
    got = linear_scaled(x, w, torch.bfloat16)
    assert got[1].isnan().all() and not got[[0, 2]].isnan().any()


def test_what_does_not_fit_is_refused():
    x, w, _, _ = operands(3, 66, 128, torch.int8)
    with pytest.raises(ValueError, match="w holds"):
        linear_scaled(x, Codes(w.codes.view(torch.float8_e4m3fn), w.scales), torch.bfloat16)
    with pytest.raises(ValueError, match="w's scales has shape"):
        linear_scaled(x, Codes(w.codes, w.scales[:5]), torch.bfloat16)
