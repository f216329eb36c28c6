"""A plan's rows as device tensors, and what came of them as rows again.

Knows nothing about threads. Invariant: a step's integers go up in one copy; padding has a table of its own, which
points at the spare page alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from penstock.backend.torch.attention import SPLIT
from penstock.backend.torch.runner import Batch, Runner, Shape
from penstock.backend.torch.sampler import log_probabilities
from penstock.backend.torch.slots import Share, Slots
from penstock.backend.torch.transfer import upload
from penstock.core import OutputKind, RowResult, TokenLogprobs

_HEAD = 3  # finite, log probability, rank
_ERRORS = {1: "invalid_logits", 2: "empty_mask"}
_I64 = npt.NDArray[np.int64]


class Forwarded(NamedTuple):
    """A step whose forward pass is done.

    Attributes:
        shares: its rows.
        logits: of the sampling positions, padded.  # [≥ N, V] f32
        asked: whether finite, then log probabilities as the sampler's, of all rows' prompt positions.
            # [≥ N', 3 + 2 · k] f64
        duration_s: of the pass.
    """

    shares: list[Share]
    logits: torch.Tensor
    asked: torch.Tensor
    duration_s: float = 0.0


def forward(runner: Runner, slots: Slots, shares: list[Share], shape: Shape, check: Callable[[], None]) -> Forwarded:
    """The forward pass of a step, with its prompt logprobs; `check` is called before every layer."""
    if not shares:
        return Forwarded([], torch.empty(0, 1), torch.empty(0, _HEAD))
    batch, sampled, before, targets = make_batch(shares, slots, shape, runner.device)
    hidden = runner.forward(batch, check)
    asked = _log_probabilities(runner, hidden, before, targets, shares, shape)
    return Forwarded(shares, runner.logits(hidden, sampled, shape), asked)


def _log_probabilities(
    runner: Runner, hidden: torch.Tensor, before: torch.Tensor, targets: torch.Tensor, shares: list[Share], shape: Shape
) -> torch.Tensor:
    """A block of positions at a time, so that few logits exist at once.  # [N', 3 + 2 · k] f64."""
    top = max((s.output.k for s in shares if s.output.kind is OutputKind.PROMPT_LOGPROBS), default=0)
    found = [hidden.new_empty(0, _HEAD, dtype=torch.float64)]
    for first in range(0, len(before), shape.block_tokens):
        part = slice(first, first + shape.block_tokens)
        raw = runner.logits(hidden, before[part], shape)
        finite = torch.isfinite(raw).all(-1, keepdim=True).double()
        found.append(torch.cat((finite, log_probabilities(raw, targets[part], min(top, raw.shape[1]))), dim=1))
    return torch.cat(found[1:] or found)


def make_batch(
    shares: Sequence[Share], slots: Slots, shape: Shape, device: torch.device
) -> tuple[Batch, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The step's tokens; indices of tokens to sample after; those before prompt logprobs, and the tokens asked for.

    The three are # [N] i64, padded to whole blocks.
    """
    count = sum(len(share.tokens) for share in shares)
    size = count if shape.fast else -(-count // shape.block_tokens) * shape.block_tokens
    tokens, positions = np.zeros(size, np.int64), np.zeros(size, np.int64)
    sequences = np.full(size, len(shares), np.int64)
    for index, share in enumerate(shares):
        part = slice(share.first, share.first + len(share.tokens))
        tokens[part], sequences[part] = share.tokens, index
        positions[part] = np.arange(share.start, share.start + len(share.tokens))
    tables = [_table(shares, slots, group, shape) for group in range(len(slots.pages))]
    before, targets = _asked(shares, slots)
    picked = [_padded(_sampled(shares), shape), _padded(before, shape), _padded(targets, shape)]
    sent = upload([tokens, positions, sequences, *picked, *tables], device)
    starts = range(0, size, shape.block_tokens)
    spans = [positions[start : min(start + shape.block_tokens, count)] for start in starts]
    batch = Batch(
        tokens=sent[0],
        positions=sent[1],
        sequences=sent[2],
        tables=tuple(sent[6:]),
        low=tuple(int(span.min()) for span in spans),
        high=tuple(int(span.max()) for span in spans),
        shape=shape,
    )
    return batch, sent[3], sent[4], sent[5]


def _table(shares: Sequence[Share], slots: Slots, group: int, shape: Shape) -> _I64:
    """Page tables of one KV group as far as any row reaches, in whole splits.  # [S + 1, N] i64."""
    reach = max(share.start + len(share.tokens) for share in shares)
    width = -(-(-(-reach // SPLIT) * SPLIT) // shape.page_tokens)
    out = np.full((len(shares) + 1, width), slots.pages[group], np.int64)
    for index, share in enumerate(shares):
        pages = np.asarray(slots[share.slot].tables[group][:width], np.int64)
        out[index, : len(pages)] = np.where(pages < 0, slots.pages[group], pages)
    return out


def _sampled(shares: Sequence[Share]) -> _I64:
    ends = [(share.first + len(share.tokens), share.num_drafts) for share in shares if share.output.sample]
    return np.array([at for end, drafts in ends for at in range(end - drafts - 1, end)], np.int64)


def _asked(shares: Sequence[Share], slots: Slots) -> tuple[_I64, _I64]:
    """Tokens before each prompt position whose log probability is asked, and the tokens there."""
    before: list[int] = []
    targets: list[int] = []
    for share in shares:
        output = share.output
        if output.kind is OutputKind.PROMPT_LOGPROBS:
            first = share.first + output.first - share.start - 1
            before += range(first, first + output.num)
            targets += slots[share.slot].tokens[output.first : output.first + output.num]
    return np.array(before, np.int64), np.array(targets, np.int64)


def _padded(values: _I64, shape: Shape) -> _I64:
    if shape.fast:
        return values
    return np.pad(values, (0, -len(values) % shape.block_tokens))


def results(
    shares: Sequence[Share], slots: Slots, sampled: npt.NDArray[np.float64], asked: npt.NDArray[np.float64]
) -> tuple[RowResult, ...]:
    """What came of every row; sampled tokens join their slot's history.

    Args:
        shares: the step's rows.
        slots: histories.
        sampled: what the sampler found of each position.  # [N, 4 + 2 · k] f64
        asked: the rows' prompt logprobs, as `Forwarded` has them.
    """
    found, at, first = [], 0, 0
    for share in shares:
        output, prompt = share.output, None
        if output.kind is OutputKind.PROMPT_LOGPROBS:
            tokens = slots[share.slot].tokens[output.first : output.first + output.num]
            rows = asked[first : first + output.num]
            first += output.num
            prompt = tuple(_entry(token, row[1:], output.k) for token, row in zip(tokens, rows, strict=True))
            if not rows[:, 0].all():
                prompt = None
        count = share.num_drafts + 1 if output.sample else 0
        result = _accepted(share, slots, sampled[at : at + count])
        at += count
        failed = output.kind is OutputKind.PROMPT_LOGPROBS and prompt is None
        found.append(RowResult(error=_ERRORS[1]) if failed else result._replace(prompt_logprobs=prompt))
    return tuple(found)


def _accepted(share: Share, slots: Slots, sampled: npt.NDArray[np.float64]) -> RowResult:
    """Tokens up to the first that is not the draft in its place."""
    slot = slots[share.slot]
    params = slot.opened.sampling
    tokens: list[int] = []
    logprobs: list[TokenLogprobs] = []
    for row, draft in zip(sampled, (*share.drafts, None), strict=True) if len(sampled) else ():
        if row[1]:
            return RowResult(error=_ERRORS[int(row[1])])
        token = int(row[0])
        tokens.append(token)
        slot.tokens.append(token)
        if params.logprobs is not None:
            logprobs.append(_entry(token, row[2:], params.logprobs))
        if token != draft:
            break
    return RowResult(tuple(tokens), None if params.logprobs is None or not tokens else tuple(logprobs))


def _entry(token: int, row: npt.NDArray[np.float64], count: int) -> TokenLogprobs:
    """row: log probability, rank, k ids, k log probabilities; the first `count` of each are given."""
    top = (len(row) - 2) // 2
    ids, values = row[2 : 2 + top], row[2 + top :]
    pairs = tuple((int(i), float(v)) for i, v in zip(ids[:count], values[:count], strict=True) if np.isfinite(v))
    return TokenLogprobs(token, float(row[0]), int(row[1]), pairs)
