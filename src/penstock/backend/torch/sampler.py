"""The next token of every position on the device: filters, noise, log probabilities.

Knows nothing about slots or plans. Invariant: a position's token depends on its own logits and parameters alone; work
goes in blocks of ROWS positions, so that its operations have one shape. Order of operations as core.types says.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from penstock.backend.torch.noise import gumbel

ROWS = 16  # positions of a block
INVALID, EMPTY = 1.0, 2.0


@dataclass(frozen=True, slots=True)
class Params:
    """What positions are sampled with; each # [N, 1].

    Attributes:
        temperature, top_p, min_p, typical_p: # f64
        top_k, keys: # i64
        filtered, typical: whether any of them filters, or by typicality; known to the host.
        noisy: whether any of them has a temperature.
    """

    temperature: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    typical_p: torch.Tensor
    top_k: torch.Tensor
    keys: torch.Tensor
    filtered: bool
    typical: bool
    noisy: bool


def choose(raw: torch.Tensor, changed: torch.Tensor, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
    """Token and fault of each position.  # [N] i64, [N] f64.

    Args:
        raw: logits as computed.  # [N, V] f32
        changed: after penalties, bias and masks.  # [N, V] f32
        params: of these positions.
    """
    top, token = changed.max(-1)  # of equal ones the first
    fault = torch.where(top == -torch.inf, EMPTY, 0.0).double()
    if params.noisy:
        greedy = params.temperature[:, 0] == 0
        token = torch.where(greedy, token, _race(changed, top, params))
        fault = torch.where((top == torch.inf) & ~greedy, INVALID, fault)
    return token, torch.where(torch.isfinite(raw).all(-1), fault, INVALID)


def _race(changed: torch.Tensor, top: torch.Tensor, params: Params) -> torch.Tensor:
    """Argmax of (logit - maximum) / T + Gumbel over what the filters keep, ties to the lower id.  # [N] i64."""
    heat = torch.where(params.temperature == 0, 1.0, params.temperature)
    scores = (changed.double() - top[:, None].double()) / heat + gumbel(params.keys[:, 0], changed.shape[1])
    kept = changed > -torch.inf
    if params.filtered:
        kept &= _kept(changed, heat, params)
    return scores.masked_fill(~kept, -torch.inf).argmax(-1)


def _kept(changed: torch.Tensor, heat: torch.Tensor, params: Params) -> torch.Tensor:
    """The ids that every filter keeps.  # [N, V] bool."""
    logits, order = torch.sort(changed, dim=-1, descending=True, stable=True)
    depth = (logits.double() - logits[:, :1].double()) / heat
    weight, rank = torch.exp(depth), torch.arange(changed.shape[1], device=changed.device)
    kept = (logits > -torch.inf) & ((params.top_k <= 0) | (rank < params.top_k))
    mass = torch.where(kept, weight, 0.0)
    kept &= (params.top_p >= 1) | (_before(mass) < params.top_p * mass.sum(-1, keepdim=True))
    kept &= (weight >= params.min_p) | (rank == 0)
    if params.typical:
        kept &= (params.typical_p >= 1) | _typical(depth, torch.where(kept, weight, 0.0), params.typical_p)
    return torch.zeros_like(kept).scatter(1, order, kept)


def _before(mass: torch.Tensor) -> torch.Tensor:
    """Sums of what stands before each place.  # [N, V] f64."""
    return torch.nn.functional.pad(mass.cumsum(-1)[:, :-1], (1, 0))


def _typical(depth: torch.Tensor, mass: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Locally typical sampling (Meister et al. 2022): nearest to the entropy first.  # [N, V] bool."""
    surprise = torch.log(mass.sum(-1, keepdim=True)) - depth
    likely = torch.where(mass > 0, torch.exp(-surprise), 0.0)
    entropy = torch.where(likely > 0, likely * surprise, 0.0).sum(-1, keepdim=True)
    far = torch.where(mass > 0, (surprise - entropy).abs(), torch.inf)
    order = torch.sort(far, dim=-1, stable=True).indices
    near = _before(likely.gather(1, order)) < share
    return torch.zeros_like(near).scatter(1, order, near)


def log_probabilities(raw: torch.Tensor, tokens: torch.Tensor, count: int) -> torch.Tensor:
    """Log probability and rank of a token at each position, then ids and log probabilities of the most likely.

    # [N, 2 + 2 · count] f64; ties rank by id.

    Args:
        raw: # [N, V] f32
        tokens: # [N] i64
        count: how many of the most likely.
    """
    own = raw.gather(1, tokens[:, None])
    top = raw.amax(-1, keepdim=True).double()
    log_sum = top + torch.log(torch.exp(raw.double() - top).sum(-1, keepdim=True))
    ids = torch.arange(raw.shape[1], device=raw.device)
    rank = 1 + ((raw > own) | ((raw == own) & (ids < tokens[:, None]))).sum(-1, keepdim=True)
    found = [(own.double() - log_sum).float().double(), rank.double()]
    if count:
        logits, order = torch.sort(raw, dim=-1, descending=True, stable=True)
        found += [order[:, :count].double(), (logits[:, :count].double() - log_sum).float().double()]
    return torch.cat(found, dim=1)
