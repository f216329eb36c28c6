"""What a layer does beside attention: norms, rotation, gated feed-forward and mixtures of experts.

Knows nothing about pages or batches. Invariant: a row's bits depend on that row and on how many rows there are, never
on what the others hold.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from penstock.backend.torch.products import product
from penstock.model import Activation, Mlp, Rope

Weights = Mapping[str, torch.Tensor]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm over the last axis.  # shape of x, f32."""
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rope: Rope) -> torch.Tensor:
    """Heads rotated by their token's position; what lies behind the rotated dimensions stays.  # [T, H, D] f32.

    Args:
        x: # [T, H, D] f32
        cos: of each token.  # [T, dims / 2] f32
        sin: the same.
        rope: says which values are pairs.
    """
    turned, rest = x[..., : rope.dims], x[..., rope.dims :]
    cos, sin = cos[:, None], sin[:, None]
    if rope.interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
        out = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
    else:
        first, second = turned.chunk(2, dim=-1)
        out = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return torch.cat((out, rest), dim=-1) if rest.shape[-1] else out


def project(x: torch.Tensor, weights: Weights, place: str) -> torch.Tensor:
    """The product with a place's matrix, its bias added where it has one.  # [T, N] f32."""
    return product(x, weights[place], weights.get(place + ".bias"))


def gated(x: torch.Tensor, weights: Weights, at: str, mlp: Mlp) -> torch.Tensor:
    """down(activation(gate(x)) * up(x)) of the places below `at`.  # [T, hidden] f32."""
    gate, up = project(x, weights, at + "gate"), project(x, weights, at + "up")
    if mlp.clamp:
        gate, up = gate.clamp(max=mlp.clamp), up.clamp(-mlp.clamp, mlp.clamp)
    return project(_activate(gate, up, mlp.activation), weights, at + "down")


def _activate(gate: torch.Tensor, up: torch.Tensor, kind: Activation) -> torch.Tensor:
    if kind is Activation.SILU:
        return functional.silu(gate) * up
    if kind is Activation.SWIGLU_OAI:
        return gate * torch.sigmoid(1.702 * gate) * (up + 1)
    return functional.gelu(gate, approximate="tanh" if kind is Activation.GELU_TANH else "none") * up


def mixture(x: torch.Tensor, weights: Weights, at: str, mlp: Mlp) -> torch.Tensor:
    """Each token's experts, summed in the order of their rank, and the shared one.  # [T, hidden] f32.

    Every expert sees every row and what nobody chose is dropped: the shapes, and so the bits, are those of any other
    batch, and the host asks the device nothing. On the CPU, where asking costs nothing, experts without a token are
    left out.
    """
    chosen, shares = route(project(x, weights, at + "router"), mlp)
    ranked = x.new_zeros(*chosen.shape, x.shape[1])  # [T, k, hidden]
    for expert in range(mlp.num_experts):
        taken = chosen == expert
        if x.device.type == "cpu" and not taken.any():
            continue
        out = gated(x, weights, f"{at}experts.{expert}.", mlp)
        ranked = torch.where(taken[..., None], out[:, None], ranked)
    total = torch.zeros_like(x)
    for rank in range(mlp.experts_per_token):
        total = total + ranked[:, rank] * shares[:, rank, None]
    if mlp.shared_intermediate:
        shared = gated(x, weights, at + "shared.", mlp)
        gate = torch.sigmoid(project(x, weights, at + "shared.router")) if mlp.shared_gate else 1.0
        total = total + shared * gate
    return total


def route(logits: torch.Tensor, mlp: Mlp) -> tuple[torch.Tensor, torch.Tensor]:
    """Experts of each token, best first, ties to the lower index, and their shares.  # [T, k] i64, [T, k] f32."""
    chosen = torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, : mlp.experts_per_token]
    weights = torch.exp(logits - logits.amax(-1, keepdim=True))
    taken = weights.gather(1, chosen)
    return chosen, taken / (taken if mlp.norm_topk else weights).sum(-1, keepdim=True)
