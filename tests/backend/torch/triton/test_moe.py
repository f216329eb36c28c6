import pytest
import torch
from tests.backend.torch.triton.test_activation import reference as activated

from penstock.backend.torch.triton import Experts, Routes, mixture, route
from penstock.backend.torch.triton.moe import MAX_EXPERTS, sort_routes

E, H, M, R = 6, 40, 70, 3


def weights(kind=torch.float32, bias=True):
    made = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=made).to(kind) / shape[-1] ** 0.5

    return Experts(draw(E, 2 * M, H), draw(E, H, M), *((draw(E, 2 * M), draw(E, H)) if bias else ()))


def tokens(count, kind=torch.float32):
    made = torch.Generator().manual_seed(1)
    return torch.randn(count, H, generator=made).to(kind), 2 * torch.randn(count, E, generator=made)


def reference(x, experts, routes, name, clamp):
    out = torch.zeros(len(x), H, dtype=torch.float64)
    for t in range(len(x)):
        for expert, weight in zip(routes.experts[t].tolist(), routes.weights[t].double(), strict=True):
            inner = experts.gate_up[expert].double() @ x[t].double()
            if experts.gate_up_bias is not None:
                inner = inner + experts.gate_up_bias[expert].double()
            y = experts.down[expert].double() @ activated(inner[None], name, clamp)[0]
            out[t] += weight * (y if experts.down_bias is None else y + experts.down_bias[expert].double())
    return out


@pytest.mark.parametrize("norm", [False, True])
def test_routes_are_the_likeliest(norm):
    _, logits = tokens(9)
    logits[3], logits[4, 2], logits[4, 5] = 1.0, 9.0, 9.0  # ties
    got = route(logits, R, norm)
    want = logits.double().softmax(-1)
    order = torch.sort(want, descending=True, stable=True).indices[:, :R]
    assert torch.equal(got.experts.long(), order)
    assert got.experts[3].tolist() == [0, 1, 2] and got.experts[4, :2].tolist() == [2, 5]
    chosen = want.gather(1, order)
    chosen = chosen / chosen.sum(-1, keepdim=True) if norm else chosen
    assert torch.allclose(got.weights.double(), chosen, rtol=1e-6)


def test_routes_of_nan_stay_within_bounds():
    _, logits = tokens(2)
    logits[0, 3] = torch.nan
    got = route(logits, R, True)
    assert sorted(set(got.experts[0].tolist())) == [0, 1, 2] and got.weights[0].isnan().all()
    assert not got.weights[1].isnan().any()


def test_routes_are_sorted_by_expert():
    experts = torch.tensor([[4, 0], [4, 2], [0, 4]], dtype=torch.int32)
    by_expert = sort_routes(Routes(experts, torch.ones(3, 2)), 5)
    assert by_expert.slots.tolist() == [1, 4, 3, 0, 2, 5] and by_expert.starts.tolist() == [0, 2, 2, 3, 3, 6]


@pytest.mark.parametrize(("name", "clamp", "bias"), [("silu", 0.0, False), ("swiglu_oai", 1.5, True)])
def test_outputs_are_those_of_float64(name, clamp, bias):
    experts = weights(bias=bias)
    for count in (1, 20):
        x, logits = tokens(count)
        routes = route(logits, R, True)
        want = reference(x, experts, routes, name, clamp)
        assert torch.allclose(mixture(x, experts, routes, name, clamp).double(), want, atol=2e-6)
        other = routes._replace(experts=(routes.experts + 1) % E)
        assert not torch.allclose(mixture(x, experts, other, name, clamp).double(), want, atol=1e-2)


def test_experts_without_rows_and_with_all():
    experts = weights(torch.bfloat16, bias=False)
    x, _ = tokens(35, torch.bfloat16)
    routes = Routes(torch.full((35, 1), 4, dtype=torch.int32), torch.ones(35, 1))
    want = reference(x, experts, routes, "silu", 0.0)
    assert torch.allclose(mixture(x, experts, routes, "silu").double(), want, atol=0.02)


def test_a_token_is_the_same_among_others():
    experts = weights(torch.bfloat16)
    x, logits = tokens(60, torch.bfloat16)
    x[7] = torch.nan
    routes = route(logits, R, True)
    together = mixture(x, experts, routes, "silu")
    assert together[7].isnan().all() and not together[8:].isnan().any()
    for t in (0, 8, 59):
        one = Routes(routes.experts[t : t + 1], routes.weights[t : t + 1])
        assert torch.equal(mixture(x[t : t + 1], experts, one, "silu"), together[t : t + 1])
    order = routes.experts.flip(1).contiguous(), routes.weights.flip(1).contiguous()
    flipped = mixture(x.float(), Experts(*(w.float() for w in experts)), Routes(*order), "silu")
    assert not torch.equal(flipped[8:], mixture(x.float(), Experts(*(w.float() for w in experts)), routes, "silu")[8:])


def test_what_does_not_fit_is_refused():
    x, logits = tokens(2)
    with pytest.raises(ValueError, match=f"7 of 6 experts are asked for; 1 to all of {MAX_EXPERTS}"):
        route(logits, 7, True)
    with pytest.raises(ValueError, match="gate_up has shape"):
        experts = weights()
        mixture(x, experts._replace(gate_up=experts.gate_up[:, 1:].contiguous()), route(logits, R, True), "silu")
    with pytest.raises(ValueError, match="relu"):
        mixture(x, weights(), route(logits, R, True), "relu")
    assert mixture(x[:0], weights(), route(logits[:0], R, True), "silu").shape == (0, H)
