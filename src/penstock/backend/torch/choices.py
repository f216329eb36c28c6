"""A step's positions to sample: parameters, changes of logits and masks from slots, and results back into rows.

Knows nothing about the forward pass. Invariant: what the device needs of all slots goes up at once, and what it found
comes down at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from penstock.backend.torch.noise import noise_key
from penstock.backend.torch.sampler import ROWS, Params, choose, log_probabilities
from penstock.backend.torch.slots import Share, Slot, Slots
from penstock.backend.torch.transfer import upload
from penstock.core import SamplingParams

_HEAD = 4  # token, fault, log probability, rank


class Position(NamedTuple):
    """One position to sample after: the slot, the drafts before it, the position of the token to come."""

    slot: int
    drafts: tuple[int, ...]
    position: int


class Edits(NamedTuple):
    """Places of a table of logits, (position, id), and what to do there."""

    rows: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]


def positions_of(shares: Sequence[Share]) -> list[Position]:
    """Where the step samples, in the order of its logits: after the last token, or after each draft too."""
    return [
        Position(share.slot, share.drafts[:at], share.start + len(share.tokens) - share.num_drafts + at)
        for share in shares
        if share.output.sample
        for at in range(share.num_drafts + 1)
    ]


def sample(
    logits: torch.Tensor, positions: Sequence[Position], slots: Slots, masks: Mapping[int, bytes]
) -> torch.Tensor:
    """Token, fault, log probability, rank, then the most likely ids and theirs, of each.  # [N, 4 + 2 · k] f64.

    Args:
        logits: of the positions and of padding behind them.  # [≥ N, V] f32
        positions: where they belong.
        slots: parameters and histories.
        masks: slot → bits, 1 = allowed, low bit first.
    """
    asked = [slots[one.slot].opened.sampling for one in positions]
    top = max((params.logprobs or 0 for params in asked), default=0)
    padded = min(len(logits), -(-len(positions) // ROWS) * ROWS)
    changed, numbers = _prepare(logits[:padded], positions, slots, masks)
    found = []
    for first in range(0, padded, ROWS):
        part = slice(first, first + ROWS)
        here = asked[part]
        raw = logits[part][: padded - first]
        token, fault = choose(raw, changed[part], _params(numbers, part, here))
        columns = [token[:, None].double(), fault[:, None]]
        if any(params.logprobs is not None for params in here):
            columns.append(log_probabilities(raw, token, min(top, raw.shape[1])))
        whole = torch.cat(columns, dim=1)
        width = _HEAD + 2 * min(top, raw.shape[1])
        found.append(torch.nn.functional.pad(whole, (0, width - whole.shape[1])))
    return torch.cat(found)[: len(positions)]


def _params(numbers: tuple[torch.Tensor, torch.Tensor], part: slice, asked: Sequence[SamplingParams]) -> Params:
    """One block's parameters; padding is greedy."""
    floats, integers = numbers[0][part], numbers[1][part]
    noisy = [params for params in asked if params.temperature != 0]
    typical = any(params.typical_p < 1 for params in noisy)
    return Params(
        temperature=floats[:, 0, None],
        top_p=floats[:, 1, None],
        min_p=floats[:, 2, None],
        typical_p=floats[:, 3, None],
        top_k=integers[:, 0, None],
        keys=integers[:, 1, None],
        filtered=typical or any(params.top_k or params.top_p < 1 or params.min_p for params in noisy),
        typical=typical,
        noisy=bool(noisy),
    )


def _prepare(
    logits: torch.Tensor, positions: Sequence[Position], slots: Slots, masks: Mapping[int, bytes]
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Changed logits # [N, V] f32, and the parameters as floats # [N, 4] f64 and integers # [N, 2] i64."""
    floats = np.tile(np.array([0.0, 1.0, 0.0, 1.0]), (len(logits), 1))
    integers = np.zeros((len(logits), 2), np.int64)
    for at, one in enumerate(positions):
        opened = slots[one.slot].opened
        params = opened.sampling
        floats[at] = params.temperature, params.top_p, params.min_p, params.typical_p
        integers[at] = params.top_k, noise_key(opened.seed, opened.sample, one.position)
    penalties, forces = _penalties(positions, slots)
    bias, ends = _biases(positions, slots), _ends(positions, slots, logits.shape[1])
    masked = [at for at, one in enumerate(positions) if one.slot in masks]
    bits = [np.frombuffer(masks[positions[at].slot], np.uint8) for at in masked]
    rows = np.array(masked, np.int64)
    packed = np.stack(bits) if bits else np.zeros((0, -(-logits.shape[1] // 8)), np.uint8)
    arrays: list[npt.NDArray[Any]] = [floats, integers, *penalties, forces, *bias, *ends, rows, packed]
    sent = upload(arrays, logits.device)
    changed = logits.clone()
    _penalize(changed, sent[2], sent[3], sent[4], sent[5])
    _put(changed, sent[6], sent[7], changed[sent[6], sent[7]] + sent[8])
    _put(changed, sent[9], sent[10], sent[11])
    if masked:
        shifts = torch.arange(8, dtype=torch.uint8, device=logits.device)
        allowed = ((sent[13][:, :, None] >> shifts) & 1).flatten(1)[:, : logits.shape[1]] == 1
        changed[sent[12]] = changed[sent[12]].masked_fill(~allowed, -torch.inf)
    return changed, (sent[0], sent[1])


def _put(changed: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor, values: torch.Tensor) -> None:
    changed[rows, ids] = values  # no place twice


def _penalize(
    changed: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor, counts: torch.Tensor, forces: torch.Tensor
) -> None:
    """Repetition, presence and frequency penalties; forces: # [N', 3] f32, one of each a place."""
    logits = changed[rows, ids]
    repetition, presence, frequency = forces.unbind(1)
    weaker = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits = torch.where(repetition == 1, logits, weaker)
    _put(changed, rows, ids, torch.where(counts > 0, logits - (presence + frequency * counts), logits))


def _edits(rows: list[int], ids: list[int], values: list[float]) -> Edits:
    return Edits(np.array(rows, np.int64), np.array(ids, np.int64), np.array(values, np.float32))


def _penalties(positions: Sequence[Position], slots: Slots) -> tuple[Edits, npt.NDArray[np.float32]]:
    """Every token that a penalty sees with its occurrences, and the penalties.  # Edits of N', [N', 3] f32."""
    rows: list[int] = []
    ids: list[int] = []
    counts: list[float] = []
    forces: list[npt.NDArray[np.float32]] = []
    for at, one in enumerate(positions):
        params = slots[one.slot].opened.sampling
        if params.repetition_penalty == 1 and not params.presence_penalty and not params.frequency_penalty:
            continue
        found = slots[one.slot].occurrences(one.drafts)
        rows += [at] * len(found)
        ids += found.keys()
        counts += found.values()
        force = np.array([params.repetition_penalty, params.presence_penalty, params.frequency_penalty], np.float32)
        forces.append(np.tile(force, (len(found), 1)))
    return _edits(rows, ids, counts), np.concatenate(forces) if forces else np.zeros((0, 3), np.float32)


def _biases(positions: Sequence[Position], slots: Slots) -> Edits:
    places: dict[tuple[int, int], float] = {}
    for at, one in enumerate(positions):
        for token, bias in slots[one.slot].opened.sampling.logit_bias:
            places[at, token] = places.get((at, token), 0.0) + bias
    return _edits([row for row, _ in places], [token for _, token in places], list(places.values()))


def _ends(positions: Sequence[Position], slots: Slots, vocab: int) -> Edits:
    """End and stop tokens of sequences that are still shorter than min_tokens."""
    places: set[tuple[int, int]] = set()
    for at, one in enumerate(positions):
        slot: Slot = slots[one.slot]
        params, output = slot.opened.sampling, len(slot.tokens) + len(one.drafts) - slot.opened.num_prompt
        if output < params.min_tokens:
            places |= {(at, t) for t in (*slot.opened.eos_token_ids, *params.stop_token_ids) if 0 <= t < vocab}
    ordered = sorted(places)
    return _edits([row for row, _ in ordered], [token for _, token in ordered], [-np.inf] * len(ordered))
