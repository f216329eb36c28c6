"""The choice of one row's token: filters without sorting, then the race of Gumbel noise. For sampling.py.

Knows nothing about penalties. Invariant: that of sampling.py. A filter keeps a head of the order by (logit, id): the
least kept logit is searched bit by bit, each look counting what is above. Noise is made for all, its logarithms only
where a token can still win: since -log(1 - v) ≥ v, one whose v · e^best exceeds its weight cannot.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def mix(z: tl.tensor) -> tl.tensor:
    """Finaliser of SplitMix64 (Steele, Lea and Flood 2014).  # u64."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def noise_key(seed: tl.tensor, sample: tl.tensor, position: tl.tensor) -> tl.tensor:
    """What a position's noise is made from.  # u64."""
    golden = tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
    key = mix(seed.to(tl.uint64, bitcast=True) + golden)
    key = mix(key + (sample.to(tl.uint64, bitcast=True) + 1) * golden)
    return mix(key + (position.to(tl.uint64, bitcast=True) + 1) * golden)


@triton.jit
def noise_uniform(key: tl.tensor, token: tl.tensor) -> tl.tensor:
    """A number in (0, 1) for every token: native/sampler_noise.h.  # f64."""
    golden = tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
    bits = mix(key + (token.to(tl.uint64) + 1) * golden) >> 11
    return (bits.to(tl.float64) + 0.5) * 1.1102230246251565e-16


@triton.jit
def gumbel(v: tl.tensor) -> tl.tensor:
    """-log(-log(1 - v)), the inner logarithm to full precision for small v as well.  # f64."""
    rest = 1.0 - v
    whole = rest == 1.0
    inner = tl.where(whole, -v, tl.log(rest) * (-v) / tl.where(whole, 1.0, rest - 1.0))
    return -tl.log(-inner)


@triton.jit
def order_of(logit: tl.tensor) -> tl.tensor:
    """Integers in the order of floats, both zeros alike.  # i32."""
    bits = (logit + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def logits_at(
    logits: tl.tensor, mask_bits: tl.tensor, token: tl.tensor, vocab: tl.tensor, masked: tl.tensor, MASKS: tl.constexpr
) -> tl.tensor:
    """A stretch of logits, -inf beyond the vocabulary and where the mask forbids."""
    logit = tl.load(logits + token, mask=token < vocab, other=float("-inf"))
    if MASKS:
        byte = tl.load(mask_bits + token // 8, mask=token < vocab, other=255)
        allowed = ((byte.to(tl.int32) >> (token % 8)) & 1) >= masked  # 0 or 1: whether the row has a mask
        logit = tl.where(allowed, logit, float("-inf"))
    return logit


@triton.jit
def top_of(
    logits: tl.tensor,
    mask_bits: tl.tensor,
    vocab: tl.tensor,
    masked: tl.tensor,
    BLOCK: tl.constexpr,
    MASKS: tl.constexpr,
    RAW: tl.constexpr,
) -> tl.tensor:
    """(greatest allowed logit, the first id that has it, how many logits are no number)."""
    best = tl.full((), float("-inf"), tl.float32)
    winner = tl.full((), 0, tl.int32)
    faults = tl.full((), 0, tl.int32)
    for first in range(0, vocab, BLOCK):
        token = first + tl.arange(0, BLOCK)
        raw = tl.load(logits + token, mask=token < vocab, other=0.0)
        bad = raw != raw
        if RAW:
            bad = bad | (tl.abs(raw) == float("inf"))
        faults += tl.sum(bad.to(tl.int32), axis=0)
        logit = logits_at(logits, mask_bits, token, vocab, masked, MASKS)
        most = tl.max(logit, axis=0)
        where = tl.min(tl.where(logit == most, token, 2147483647), axis=0)
        winner = tl.where(most > best, where, winner)
        best = tl.maximum(best, most)
    return best, winner, faults


@triton.jit
def above(
    logits: tl.tensor,
    mask_bits: tl.tensor,
    vocab: tl.tensor,
    masked: tl.tensor,
    least: tl.tensor,
    maximum: tl.tensor,
    inverse: tl.tensor,
    BLOCK: tl.constexpr,
    MASKS: tl.constexpr,
) -> tl.tensor:
    """(number, weight) of the tokens of order `least` or more; a weight is e^((logit - maximum) / temperature)."""
    count = tl.full((), 0, tl.int32)
    mass = tl.full((), 0.0, tl.float64)
    for first in range(0, vocab, BLOCK):
        token = first + tl.arange(0, BLOCK)
        logit = logits_at(logits, mask_bits, token, vocab, masked, MASKS)
        kept = (order_of(logit).to(tl.int64) >= least) & (logit != float("-inf"))
        count += tl.sum(kept.to(tl.int32), axis=0)
        mass += tl.sum(tl.where(kept, tl.exp((logit - maximum) * inverse), 0.0), axis=0).to(tl.float64)
    return count, mass


@triton.jit
def head_of(
    logits: tl.tensor,
    mask_bits: tl.tensor,
    vocab: tl.tensor,
    masked: tl.tensor,
    maximum: tl.tensor,
    inverse: tl.tensor,
    top_k: tl.tensor,
    top_p: tl.tensor,
    BLOCK: tl.constexpr,
    MASKS: tl.constexpr,
) -> tl.tensor:
    """(order of the least kept logit, how many of those equal to it are kept) after top_k and top_p."""
    row = (logits, mask_bits, vocab, masked)
    facts: tl.constexpr = (BLOCK, MASKS)
    top = order_of(maximum).to(tl.int64)
    least = tl.full((), -2147483648, tl.int64)
    if (top_k > 0) & (top_k < vocab):
        high = top
        while least < high:  # the greatest order that top_k tokens reach
            middle = least + (high - least + 1) // 2
            count, _mass = above(*row, middle, maximum, inverse, *facts)
            least = tl.where(count >= top_k, middle, least)
            high = tl.where(count >= top_k, high, middle - 1)
        count, mass = above(*row, least + 1, maximum, inverse, *facts)
        ties = top_k - count
    else:
        _count, mass = above(*row, least, maximum, inverse, *facts)
        ties = tl.full((), 2147483647, tl.int32)
    if top_p < 1.0:
        if (top_k > 0) & (top_k < vocab):  # the equals that top_k kept have their weight too
            mass += ties.to(tl.float64) * weight_of(least, maximum, inverse)
        wanted = top_p * mass
        floor = least
        high = top
        while least < high:
            middle = least + (high - least + 1) // 2
            _count, reached = above(*row, middle, maximum, inverse, *facts)
            least = tl.where(reached >= wanted, middle, least)
            high = tl.where(reached >= wanted, high, middle - 1)
        _count, mass = above(*row, least + 1, maximum, inverse, *facts)
        needed = tl.ceil((wanted - mass) / weight_of(least, maximum, inverse))
        needed = tl.maximum(tl.minimum(needed, 2147483647.0), 1.0).to(tl.int32)
        ties = tl.where(least == floor, tl.minimum(ties, needed), needed)
    return least, ties


@triton.jit
def weight_of(order: tl.tensor, maximum: tl.tensor, inverse: tl.tensor) -> tl.tensor:
    """The weight of a logit by its order.  # f64."""
    bits = order.to(tl.int32)
    logit = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return tl.exp((logit - maximum) * inverse).to(tl.float64)


@triton.jit
def race(
    logits: tl.tensor,
    mask_bits: tl.tensor,
    vocab: tl.tensor,
    masked: tl.tensor,
    maximum: tl.tensor,
    winner: tl.tensor,
    temperature: tl.tensor,
    least: tl.tensor,
    ties: tl.tensor,
    min_p: tl.tensor,
    key: tl.tensor,
    BLOCK: tl.constexpr,
    MASKS: tl.constexpr,
) -> tl.tensor:
    """The id with the greatest (logit - maximum) / temperature + noise among the kept, the lower one of equals."""
    wide = maximum.to(tl.float64)
    inverse = tl.minimum(1.0 / temperature, 1e30).to(tl.float32)
    best = gumbel(noise_uniform(key, winner))
    passed = tl.full((), 0, tl.int32)
    for first in range(0, vocab, BLOCK):
        token = first + tl.arange(0, BLOCK)
        logit = logits_at(logits, mask_bits, token, vocab, masked, MASKS)
        order = order_of(logit).to(tl.int64)
        equal = (order == least).to(tl.int32)
        kept = (order > least) | ((equal == 1) & (passed + tl.cumsum(equal, axis=0) <= ties))
        passed += tl.sum(equal, axis=0)
        weight = tl.exp((logit - maximum) * inverse)
        kept = kept & (logit != float("-inf")) & ((weight.to(tl.float64) >= min_p) | (logit == maximum))
        v = noise_uniform(key, token)
        hopeful = kept & (v * tl.exp(best) <= weight.to(tl.float64) * 1.001 + 1e-36)
        if tl.max(hopeful.to(tl.int32), axis=0) > 0:
            score = (logit.to(tl.float64) - wide) / temperature + gumbel(v)
            score = tl.where(hopeful, score, float("-inf"))
            most = tl.max(score, axis=0)
            where = tl.min(tl.where(score == most, token, 2147483647), axis=0)
            better = (most > best) | ((most == best) & (where < winner))
            winner = tl.where(better, where, winner)
            best = tl.maximum(best, most)
    return winner


@triton.jit
def choose_kernel(
    logits: tl.tensor,
    temperatures: tl.tensor,
    top_ps: tl.tensor,
    min_ps: tl.tensor,
    top_ks: tl.tensor,
    seeds: tl.tensor,
    samples: tl.tensor,
    positions: tl.tensor,
    mask_bits: tl.tensor,
    mask_rows: tl.tensor,
    tokens: tl.tensor,
    status: tl.tensor,
    vocab: tl.tensor,
    stride: tl.tensor,
    mask_stride: tl.tensor,
    BLOCK: tl.constexpr,
    MASKS: tl.constexpr,
    RAW: tl.constexpr,
) -> None:
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    masked = tl.full((), 0, tl.int32)
    if MASKS:
        which = tl.load(mask_rows + row).to(tl.int64)
        masked = (which >= 0).to(tl.int32)
        mask_bits += tl.maximum(which, 0) * mask_stride
    facts: tl.constexpr = (BLOCK, MASKS)
    maximum, winner, faults = top_of(logits, mask_bits, vocab, masked, BLOCK, MASKS, RAW)
    temperature = tl.load(temperatures + row)
    empty = maximum == float("-inf")
    broken = (faults > 0) | ((maximum == float("inf")) & (temperature > 0))
    if (temperature > 0) & (empty | broken == 0):
        top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
        least = tl.full((), -2147483648, tl.int64)
        ties = tl.full((), 2147483647, tl.int32)
        inverse = tl.minimum(1.0 / temperature, 1e30).to(tl.float32)
        if ((top_k > 0) & (top_k < vocab)) | (top_p < 1.0):
            least, ties = head_of(logits, mask_bits, vocab, masked, maximum, inverse, top_k, top_p, *facts)
        key = noise_key(tl.load(seeds + row), tl.load(samples + row), tl.load(positions + row))
        limits = (least, ties, tl.load(min_ps + row), key)
        winner = race(logits, mask_bits, vocab, masked, maximum, winner, temperature, *limits, *facts)
    tl.store(status + row, tl.where(faults > 0, 1, tl.where(empty, 2, tl.where(broken, 1, 0))))
    tl.store(tokens + row, tl.where(empty | broken, -1, winner))
