"""The next token of every row, chosen on the device: penalties, bias, mask, temperature, filters, noise.

Knows nothing about slots or steps. Invariant: a token is a function of its row's logits, parameters, seed, sample and
position alone, by the rules of native/sampler.cc: the noise has the same bits, the order of operations is that of
`SamplingParams`, ties go to the lower id. What is kept of a vocabulary is a head of its order by (logit, id), given by
the least logit that is in it and how many of those that equal it are: no sorting.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from penstock.backend.torch.triton.launch import ceil_div, expect, expect_dense, power_of_two
from penstock.backend.torch.triton.sampling_race import choose_kernel

BLOCK = 4096  # logits at a time
OK, INVALID_LOGITS, EMPTY_MASK = 0, 1, 2  # of a row: the numbers of native/sampler.h


class SampleRows(NamedTuple):
    """Parameters of every row, as `SamplingParams` has them, resolved.

    Attributes:
        temperature, top_p, min_p: # [R] f64
        top_k: 0 is off.  # [R] i32
        seeds: 64 bits each.  # [R] i64
        samples: index of the sample.  # [R] i64
        positions: of the token that is chosen.  # [R] i64
    """

    temperature: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    top_k: torch.Tensor
    seeds: torch.Tensor
    samples: torch.Tensor
    positions: torch.Tensor


class Penalties(NamedTuple):
    """What lowers tokens that occurred.

    Attributes:
        occurrences: of every token in a sequence's output; 0 is only in the prompt, -1 nowhere.  # [slots, V] i32
        slots: each row's, or -1 where it has no penalties.  # [R] i32
        repetition, presence, frequency: # [R] f32
    """

    occurrences: torch.Tensor
    slots: torch.Tensor
    repetition: torch.Tensor
    presence: torch.Tensor
    frequency: torch.Tensor


class Bias(NamedTuple):
    """What is added to some logits; -inf forbids a token.

    Attributes:
        starts: of each row's entries.  # [R + 1] i32
        ids: those of one row are distinct.  # [E] i32
        values: # [E] f32
        most: at least as many as any row has.
    """

    starts: torch.Tensor
    ids: torch.Tensor
    values: torch.Tensor
    most: int


class Masks(NamedTuple):
    """Tokens that grammars allow.

    Attributes:
        bits: bit id % 8 of byte id / 8 is 1 where a token is allowed.  # [M, ceil(V / 8)] u8
        rows: each row's mask, or -1.  # [R] i32
    """

    bits: torch.Tensor
    rows: torch.Tensor


class Chosen(NamedTuple):
    """What was chosen.

    Attributes:
        tokens: -1 where there is none.  # [R] i32
        status: OK, INVALID_LOGITS or EMPTY_MASK.  # [R] i32
    """

    tokens: torch.Tensor
    status: torch.Tensor


@triton.jit
def penalize_kernel(
    logits: tl.tensor,
    out: tl.tensor,
    occurrences: tl.tensor,
    slots: tl.tensor,
    repetition: tl.tensor,
    presence: tl.tensor,
    frequency: tl.tensor,
    vocab: tl.tensor,
    stride: tl.tensor,
    BLOCK: tl.constexpr,
    PENALTIES: tl.constexpr,
) -> None:
    """A stretch of one row, copied with its penalties; NaN where a raw logit is not finite."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocab
    logit = tl.load(logits + row * stride + token, mask=inside, other=0.0)
    poison = logit * 0.0
    if PENALTIES:
        slot = tl.load(slots + row).to(tl.int64)
        if slot >= 0:
            count = tl.load(occurrences + slot * vocab + token, mask=inside, other=-1)
            factor = tl.load(repetition + row) + 0.0 * logit
            scaled = tl.where(logit > 0, tl.div_rn(logit, factor), logit * factor)
            logit = tl.where((count >= 0) & (factor != 1.0), scaled, logit)
            less = tl.load(presence + row) + tl.load(frequency + row) * count.to(tl.float32)
            logit = tl.where(count > 0, logit - less, logit)
    tl.store(out + row * vocab + token, tl.where(poison == 0.0, logit, float("nan")), mask=inside)


@triton.jit
def bias_kernel(
    out: tl.tensor, starts: tl.tensor, ids: tl.tensor, values: tl.tensor, vocab: tl.tensor, BLOCK: tl.constexpr
) -> None:
    """Adds one row's entries."""
    row = tl.program_id(0).to(tl.int64)
    entry = tl.load(starts + row) + tl.arange(0, BLOCK)
    inside = entry < tl.load(starts + row + 1)
    token = tl.load(ids + entry, mask=inside, other=0)
    inside = inside & (token >= 0) & (token < vocab)
    value = tl.load(values + entry, mask=inside, other=0.0)
    at = out + row * vocab + token
    logit = tl.load(at, mask=inside, other=0.0)
    forbidden = (value == float("-inf")) & (logit == logit)
    tl.store(at, tl.where(forbidden, value, logit + value), mask=inside)


def sample(
    logits: torch.Tensor,
    rows: SampleRows,
    penalties: Penalties | None = None,
    bias: Bias | None = None,
    masks: Masks | None = None,
) -> Chosen:
    """The token of every row, without a round trip to the host.

    Args:
        logits: raw; unchanged.  # [R, V] f32
        rows: parameters.
        penalties: where any row has them.
        bias: where any row has one.
        masks: where any row has one.

    Raises:
        ValueError: shapes or kinds that do not fit.
    """
    num, vocab = logits.shape
    _check(logits, rows, penalties, bias, masks)
    device = logits.device
    chosen = Chosen(*(torch.empty(num, dtype=torch.int32, device=device) for _ in range(2)))
    if not num:
        return chosen
    raw = penalties is None and bias is None
    edited = logits if raw else _edited(logits, penalties, bias)
    choose_kernel[(num,)](
        edited,
        *rows,
        *(masks if masks is not None else (logits, logits)),
        *chosen,
        vocab,
        edited.stride(0),
        0 if masks is None else masks.bits.stride(0),
        BLOCK=min(BLOCK, power_of_two(vocab)),
        MASKS=masks is not None,
        RAW=raw,
        num_warps=8,
        enable_fp_fusion=False,
    )
    return chosen


def _edited(logits: torch.Tensor, penalties: Penalties | None, bias: Bias | None) -> torch.Tensor:
    """Logits after penalties and bias.  # [R, V] f32."""
    num, vocab = logits.shape
    out = torch.empty(num, vocab, dtype=torch.float32, device=logits.device)
    penalize_kernel[(num, ceil_div(vocab, BLOCK))](
        logits,
        out,
        *(penalties if penalties is not None else (logits,) * 5),
        vocab,
        logits.stride(0),
        BLOCK=BLOCK,
        PENALTIES=penalties is not None,
        num_warps=8,
        enable_fp_fusion=False,
    )
    if bias is not None and bias.most:
        block = power_of_two(bias.most, 32)
        bias_kernel[(num,)](
            out, bias.starts, bias.ids, bias.values, vocab, BLOCK=block, num_warps=4, enable_fp_fusion=False
        )
    return out


def _check(
    logits: torch.Tensor,
    rows: SampleRows,
    penalties: Penalties | None,
    bias: Bias | None,
    masks: Masks | None,
) -> None:
    num, vocab = logits.shape
    expect("logits", logits, (-1, -1), (torch.float32,))
    if not vocab:
        raise ValueError("logits have no vocabulary; a token cannot be chosen.")
    kinds = (torch.float64,) * 3 + (torch.int32,) + (torch.int64,) * 3
    for name, tensor, kind in zip(SampleRows._fields, rows, kinds, strict=True):
        expect_dense(name, tensor, (num,), (kind,))
    if penalties is not None:
        expect_dense("occurrences", penalties.occurrences, (-1, vocab), (torch.int32,))
        expect_dense("slots", penalties.slots, (num,), (torch.int32,))
        for name, tensor in zip(Penalties._fields[2:], penalties[2:], strict=True):
            expect_dense(name, tensor, (num,), (torch.float32,))
    if bias is not None:
        expect_dense("starts", bias.starts, (num + 1,), (torch.int32,))
        expect_dense("ids", bias.ids, (-1,), (torch.int32,))
        expect_dense("values", bias.values, tuple(bias.ids.shape), (torch.float32,))
    if masks is not None:
        expect("bits", masks.bits, (-1, ceil_div(vocab, 8)), (torch.uint8,))
        expect_dense("mask rows", masks.rows, (num,), (torch.int32,))
