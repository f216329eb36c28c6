"""A mixture of experts: routing, both of the experts' products over rows sorted by expert, and the weighted sum.

Knows nothing about layers. Invariant: a token's bits depend on that token alone: its rows go through linear.py's
products whatever tile it lies in, and its experts' outputs are summed in the order of their rank, without atomics.
Nothing is read back: how many rows an expert has stays on the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from penstock.backend.torch.triton.activation import activation_number, gated
from penstock.backend.torch.triton.launch import FLOATS, ceil_div, expect, expect_dense, interprets, power_of_two
from penstock.backend.torch.triton.linear import BLOCK_K
from penstock.backend.torch.triton.numbers import product, rounded, widened

CHANNELS = 64  # of a tile: the side of a Hopper matrix instruction
MAX_EXPERTS = 1024


class Experts(NamedTuple):
    """Weights of a mixture, of x's kind.

    Attributes:
        gate_up: gate, then up.  # [E, 2 · I, H]
        down: # [E, H, I]
        gate_up_bias: # [E, 2 · I] or None
        down_bias: # [E, H] or None
    """

    gate_up: torch.Tensor
    down: torch.Tensor
    gate_up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None


class Routes(NamedTuple):
    """Which experts every token takes, the likeliest first.

    Attributes:
        experts: # [T, R] i32
        weights: # [T, R] f32
    """

    experts: torch.Tensor
    weights: torch.Tensor


class Sorted(NamedTuple):
    """Routes by expert.

    Attributes:
        slots: token · R + rank of every place, experts ascending.  # [T · R] i32
        starts: where each expert's places begin; the last is T · R.  # [E + 1] i32
        block: rows of a tile.
        tiles: at least as many as there are.
    """

    slots: torch.Tensor
    starts: torch.Tensor
    block: int
    tiles: int


@triton.jit
def route_kernel(
    logits: tl.tensor,
    experts: tl.tensor,
    weights: tl.tensor,
    num: tl.tensor,
    stride: tl.tensor,
    RANKS: tl.constexpr,
    BLOCK: tl.constexpr,
    NORM: tl.constexpr,
) -> None:
    """One token: softmax over all experts, the highest one after the other, ties to the lower index."""
    row = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK)
    logit = tl.load(logits + row * stride + e, mask=e < num, other=float("-inf"))
    weight = tl.exp(logit - tl.max(logit, axis=0))
    weight = tl.div_rn(weight, tl.sum(weight, axis=0) + 0.0 * weight)
    left = tl.where(e < num, weight, -1.0)
    left = tl.where(left == left, left, 2.0)  # NaN is chosen in order, so that ids stay within bounds
    total = tl.full((), 0.0, tl.float32)
    for rank in tl.static_range(RANKS):
        best = tl.min(tl.where(left == tl.max(left, axis=0), e, BLOCK), axis=0)
        chosen = tl.sum(tl.where(e == best, weight, 0.0), axis=0)
        total += chosen
        tl.store(experts + row * RANKS + rank, best)
        tl.store(weights + row * RANKS + rank, chosen)
        left = tl.where(e == best, -2.0, left)
    if NORM:
        tl.debug_barrier()  # what other threads stored is read again
        for rank in tl.static_range(RANKS):
            at = weights + row * RANKS + rank
            tl.store(at, tl.div_rn(tl.load(at), total))


@triton.jit
def tile_of_expert(
    starts: tl.tensor, num: tl.tensor, tile: tl.tensor, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr
) -> tl.tensor:
    """(expert of a tile, its first place, the place after the expert's last); an expert of `num` is none."""
    e = tl.arange(0, BLOCK_E)
    begin = tl.load(starts + e, mask=e < num, other=0)
    end = tl.load(starts + e + 1, mask=e < num, other=0)
    tiles = (end - begin + BLOCK_T - 1) // BLOCK_T
    until = tl.cumsum(tiles, axis=0)
    expert = tl.sum(((until <= tile) & (e < num)).to(tl.int32), axis=0)
    here = e == expert
    first = tl.sum(tl.where(here, begin + (tile - until + tiles) * BLOCK_T, 0), axis=0)
    return expert, first, tl.sum(tl.where(here, end, 0), axis=0)


@triton.jit
def experts_kernel(
    x: tl.tensor,  # [rows, K]
    w: tl.tensor,  # [E, N, K], or [E, 2 · N, K] with GATED
    bias: tl.tensor,  # [E, N], or [E, 2 · N]
    out: tl.tensor,  # [rows, N]
    slots: tl.tensor,
    starts: tl.tensor,
    num: tl.tensor,
    channels: tl.tensor,
    inputs: tl.tensor,
    x_stride: tl.tensor,
    ranks: tl.tensor,
    clamp: tl.tensor,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_E: tl.constexpr,
    GATED: tl.constexpr,
    KIND: tl.constexpr,
    CLAMP: tl.constexpr,
    EVEN_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """A tile of one expert's rows: of tokens into places with GATED, else of places into slots."""
    expert, first, end = tile_of_expert(starts, num, tl.program_id(1), BLOCK_T, BLOCK_E)
    if expert < num:
        t = first + tl.arange(0, BLOCK_T)
        slot = tl.load(slots + tl.minimum(t, end - 1))
        n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
        k = tl.arange(0, BLOCK_K)
        source = slot // ranks if GATED else tl.minimum(t, end - 1)
        x_at = x + source.to(tl.int64)[:, None] * x_stride + k[None, :]
        halves: tl.constexpr = 2 if GATED else 1
        channel = expert.to(tl.int64) * (channels * halves) + n % channels
        w_at = w + channel[:, None] * inputs + k[None, :]
        total = tl.full((BLOCK_N, BLOCK_T), 0.0, tl.float32)
        up = tl.full((BLOCK_N, BLOCK_T), 0.0, tl.float32)
        for start in range(0, inputs, BLOCK_K):
            inside = (start + k < inputs)[None, :]
            right = tl.trans(tl.load(x_at) if EVEN_K else tl.load(x_at, mask=inside, other=0.0))
            left = tl.load(w_at) if EVEN_K else tl.load(w_at, mask=inside, other=0.0)
            total = product(left, right, total, WIDEN)
            if GATED:
                second = w_at + channels.to(tl.int64) * inputs
                left = tl.load(second) if EVEN_K else tl.load(second, mask=inside, other=0.0)
                up = product(left, right, up, WIDEN)
            x_at += BLOCK_K
            w_at += BLOCK_K
        if HAS_BIAS:
            total += widened(tl.load(bias + channel), WIDEN)[:, None]
        if GATED:
            if HAS_BIAS:
                up += widened(tl.load(bias + channel + channels), WIDEN)[:, None]
            total = gated(total, up, clamp, KIND, CLAMP)
        target = t if GATED else slot
        at = out + target.to(tl.int64)[None, :] * channels + n[:, None]
        tl.store(at, rounded(total, out.dtype.element_ty, WIDEN), mask=(t < end)[None, :] & (n < channels)[:, None])


@triton.jit
def sum_kernel(
    parts: tl.tensor,  # [T · R, H]
    weights: tl.tensor,  # [T, R] f32
    out: tl.tensor,  # [T, H]
    width: tl.tensor,
    RANKS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """A stretch of one token's sum, ranks ascending."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < width
    total = tl.full((BLOCK,), 0.0, tl.float32)
    for rank in range(RANKS):
        part = widened(tl.load(parts + (row * RANKS + rank) * width + n, mask=inside, other=0.0), WIDEN)
        total = tl.fma(part, tl.load(weights + row * RANKS + rank) + 0.0 * part, total)
    tl.store(out + row * width + n, rounded(total, out.dtype.element_ty, WIDEN), mask=inside)


def route(logits: torch.Tensor, ranks: int, norm: bool) -> Routes:
    """The `ranks` likeliest experts of every token and their probabilities, which sum to one with `norm`.

    Args:
        logits: of the router.  # [T, E] f32
        ranks: experts per token.
        norm: divides the weights by their sum.

    Raises:
        ValueError: shapes or kinds that do not fit.
    """
    expect("logits", logits, (-1, -1), (torch.float32,))
    tokens, num = logits.shape
    if not 1 <= ranks <= num <= MAX_EXPERTS:
        raise ValueError(f"{ranks} of {num} experts are asked for; 1 to all of {MAX_EXPERTS} at most.")
    experts = torch.empty(tokens, ranks, dtype=torch.int32, device=logits.device)
    weights = torch.empty(tokens, ranks, dtype=torch.float32, device=logits.device)
    if tokens:
        flags = {"RANKS": ranks, "BLOCK": power_of_two(num), "NORM": norm}
        options = {"num_warps": 1, "enable_fp_fusion": False}
        route_kernel[(tokens,)](logits, experts, weights, num, logits.stride(0), **flags, **options)
    return Routes(experts, weights)


def sort_routes(routes: Routes, num: int) -> Sorted:
    """Routes by expert, ties by token; `num` is the number of experts."""
    flat = routes.experts.reshape(-1)
    ordered, slots = torch.sort(flat, stable=True)
    edges = torch.arange(num + 1, dtype=torch.int32, device=flat.device)
    starts = torch.searchsorted(ordered, edges, out_int32=True)
    rows = flat.numel()
    mean = ceil_div(rows, num)
    block = 16 if mean <= 16 else 32 if mean <= 32 else 64 if mean <= 64 else 128
    return Sorted(slots.to(torch.int32), starts, block, ceil_div(rows, block) + min(num, rows))


def mixture(x: torch.Tensor, experts: Experts, routes: Routes, name: str, clamp: float = 0.0) -> torch.Tensor:
    """Every token's experts' outputs, weighted and summed by rank, in x's kind.  # [T, H].

    Args:
        x: # [T, H] floats
        experts: weights.
        routes: as `route` gives them; ids must be below the number of experts.
        name: of the activation: a value of penstock.model.Activation.
        clamp: limits gate from above and up from both sides first; 0 is no limit.

    Raises:
        ValueError: shapes, kinds or a name that do not fit.
    """
    _check(x, experts, routes)
    tokens, hidden = x.shape
    ranks, width = routes.experts.shape[1], experts.down.shape[2]
    out = torch.empty(tokens, hidden, dtype=x.dtype, device=x.device)
    number = activation_number(name)
    if not tokens:
        return out
    by_expert = sort_routes(routes, experts.down.shape[0])
    inner = torch.empty(tokens * ranks, width, dtype=x.dtype, device=x.device)
    parts = torch.empty(tokens * ranks, hidden, dtype=x.dtype, device=x.device)
    flags = {"KIND": number, "CLAMP": clamp > 0}
    _products((x, experts.gate_up, experts.gate_up_bias, inner), by_expert, (ranks, clamp), {"GATED": True, **flags})
    _products((inner, experts.down, experts.down_bias, parts), by_expert, (ranks, 0.0), {"GATED": False, **flags})
    grid = (tokens, ceil_div(hidden, 1024))
    flags = {"RANKS": ranks, "BLOCK": 1024, "WIDEN": interprets(sum_kernel)}
    sum_kernel[grid](parts, routes.weights, out, hidden, **flags, num_warps=4, enable_fp_fusion=False)
    return out


def _products(
    arrays: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor],
    by_expert: Sorted,
    numbers: tuple[int, float],
    flags: dict[str, int],
) -> None:
    """One of an expert's two products."""
    x, w, bias, out = arrays
    num, channels, inputs = w.shape[0], out.shape[1], x.shape[1]
    experts_kernel[(ceil_div(channels, CHANNELS), by_expert.tiles)](
        x,
        w,
        w if bias is None else bias,
        out,
        by_expert.slots,
        by_expert.starts,
        *(num, channels, inputs),
        x.stride(0),
        *numbers,
        BLOCK_T=by_expert.block,
        BLOCK_N=CHANNELS,
        BLOCK_K=BLOCK_K,
        BLOCK_E=power_of_two(num),
        EVEN_K=inputs % BLOCK_K == 0,
        HAS_BIAS=bias is not None,
        WIDEN=interprets(experts_kernel),
        **flags,
        num_warps=8 if by_expert.block > 64 else 4,
        num_stages=3 if by_expert.block > 64 or x.dtype == torch.float32 else 4,
        enable_fp_fusion=False,
    )


def _check(x: torch.Tensor, experts: Experts, routes: Routes) -> None:
    expect("x", x, (-1, -1), FLOATS)
    tokens, hidden = x.shape
    expect_dense("down", experts.down, (-1, hidden, -1), (x.dtype,))
    num, _, width = experts.down.shape
    expect_dense("gate_up", experts.gate_up, (num, 2 * width, hidden), (x.dtype,))
    if experts.gate_up_bias is not None:
        expect_dense("gate_up_bias", experts.gate_up_bias, (num, 2 * width), FLOATS)
    if experts.down_bias is not None:
        expect_dense("down_bias", experts.down_bias, (num, hidden), FLOATS)
    expect_dense("experts", routes.experts, (tokens, -1), (torch.int32,))
    expect_dense("weights", routes.weights, tuple(routes.experts.shape), (torch.float32,))
    if not 1 <= num <= MAX_EXPERTS:
        raise ValueError(f"there are {num} experts; 1 to {MAX_EXPERTS} fit.")
