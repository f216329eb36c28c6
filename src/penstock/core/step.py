"""One step as data: what is to be computed, and what came of it.

Knows nothing about who plans or who computes. Invariant: a `StepPlan` holds only integers, floats, strings and
tuples of them, so that it can be printed, hashed and replayed.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from penstock.core.types import FinishReason, SamplingParams, Sequence, TokenLogprobs


class FutureToken(NamedTuple):
    """The token that slot `slot` samples in step `step`, named in a plan made before that step is committed."""

    slot: int
    step: int


class OutputKind(IntEnum):
    """What a row gives beside KV."""

    NONE = 0
    SAMPLE = 1
    PROMPT_LOGPROBS = 2  # logprobs of prompt positions; samples too when the row ends at the last known token
    POOL = 3


class Output(NamedTuple):
    """A row's output. For PROMPT_LOGPROBS, positions [first, first + num) get their top k."""

    kind: OutputKind
    first: int = 0
    num: int = 0
    k: int = 0
    sample: bool = False


NO_OUTPUT = Output(OutputKind.NONE)
SAMPLE = Output(OutputKind.SAMPLE, sample=True)


class Row(NamedTuple):
    """One sequence's share of a step; deltas only.

    `tokens` are the ids at positions start, start+1, …; a decode row planned ahead holds one `FutureToken` instead.
    `new_pages[g]` is appended to the slot's table of KV group g before anything is computed (the first row after
    `opened` carries the shared prefix pages too; -1 stands for a page behind a window). The last `num_drafts` tokens
    are drafts to verify: the row then samples at num_drafts + 1 positions and stops at the first mismatch.
    """

    slot: int
    start: int
    tokens: tuple[int, ...] | FutureToken
    new_pages: tuple[tuple[int, ...], ...]
    num_drafts: int
    output: Output

    @property
    def num_tokens(self) -> int:
        """Positions that this row computes."""
        return 1 if type(self.tokens) is FutureToken else len(self.tokens)


class Opened(NamedTuple):
    """Introduces a slot once (again after preemption): all that the backend must know of a sequence.

    `tokens` are prompt and output known so far: penalties count them. `seed` is the request's; noise is a function of
    (seed, sample, position, token id).
    """

    slot: int
    sequence: int
    sample: int
    seed: int
    tokens: tuple[int, ...]
    num_prompt: int
    sampling: SamplingParams
    eos_token_ids: tuple[int, ...]
    adapter: str | None
    grammar: str | None


class PageCopy(NamedTuple):
    """Copy a whole page before the step's forward (copy-on-write)."""

    group: int
    source: int
    target: int


class StepPlan(NamedTuple):
    """What one step computes. `released_slots` are free for reuse before `opened` is read."""

    step: int
    opened: tuple[Opened, ...]
    rows: tuple[Row, ...]
    copies: tuple[PageCopy, ...]
    released_slots: tuple[int, ...]


class RowResult(NamedTuple):
    """What came of one row.

    `tokens`: () without a sample, one token, or accepted drafts + 1. `prompt_logprobs`: one per position asked.
    `error`: a short code such as "invalid_logits"; then nothing else holds and the sequence must fail alone.
    """

    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    drafts: tuple[int, ...] = ()
    vector: tuple[float, ...] | None = None
    error: str | None = None


class StepResult(NamedTuple):
    """Results in the plan's row order."""

    step: int
    rows: tuple[RowResult, ...]
    duration_s: float


class Outcome(NamedTuple):
    """What a commit did to one sequence: the scheduler's report to the engine.

    `tokens` were appended to the sequence (a stop token included). `finish` is set when the sample ended.
    """

    sequence: Sequence
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None
    prompt_logprobs: tuple[TokenLogprobs, ...] | None
    finish: FinishReason | None
    stop_token: int | None
    error: str | None
