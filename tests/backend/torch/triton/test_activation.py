import pytest
import torch

from penstock.backend.torch.triton import gated_activation
from penstock.backend.torch.triton.activation import ACTIVATIONS
from penstock.model import Activation


def reference(x, name, clamp):
    gate, up = x.double().chunk(2, -1)
    if clamp:
        gate, up = gate.clamp(max=clamp), up.clamp(-clamp, clamp)
    gelu = torch.nn.functional.gelu
    if name == "swiglu_oai":
        return gate * torch.sigmoid(1.702 * gate) * (up + 1)
    acted = {"silu": torch.nn.functional.silu, "gelu": gelu, "gelu_tanh": lambda g: gelu(g, approximate="tanh")}
    return acted[name](gate) * up


def made(rows, width, kind=torch.float32):
    return (4 * torch.randn(rows, 2 * width, generator=torch.Generator().manual_seed(0))).to(kind)


def test_every_activation_of_the_spec_has_a_kernel():
    assert set(ACTIVATIONS) == {each.value for each in Activation}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("clamp", [0.0, 2.5])
def test_values_are_those_of_float64(name, clamp):
    for width in (1, 65, 1025):
        x = made(3, width)
        got = gated_activation(x, name, clamp).double()
        assert torch.allclose(got, reference(x, name, clamp), rtol=2e-6, atol=2e-6)
        assert not torch.allclose(got, reference(x, name, 2.5 - clamp), rtol=1e-3)
        assert not torch.allclose(got, reference(x.roll(width, 1), name, clamp), rtol=1e-3)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_row_is_the_same_among_others(name):
    x = made(9, 70, torch.bfloat16)
    x[4] = torch.nan
    together = gated_activation(x, name)
    assert torch.equal(together[5:6], gated_activation(x[5:6], name)) and together[4].isnan().all()
    assert torch.allclose(together[:4].double(), reference(x[:4], name, 0.0), rtol=0.004, atol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="relu"):
        gated_activation(made(1, 4), "relu")
    with pytest.raises(ValueError, match="even number"):
        gated_activation(torch.empty(1, 7), "silu")
    assert gated_activation(torch.empty(0, 8), "silu").shape == (0, 4)
