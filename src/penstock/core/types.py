"""What is asked, what is running, and what comes out: plain data that every room shares.

Knows nothing about tensors, HTTP or clocks. Invariant: `Request` and `SamplingParams` never change after admission;
only the scheduler mutates a `Sequence`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple


class FinishReason(str, Enum):
    """Why a sample ended. STOP and LENGTH are the published ones; the others never reach a client as a reason."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen and when to end; checked at the door by `check_sampling`.

    Order of operations, the same in every backend: logits → repetition, presence and frequency penalties →
    logit_bias → min_tokens mask → grammar mask → temperature → top_k → top_p → min_p → typical_p → counter noise →
    argmax, ties to the lower id. `temperature == 0` is greedy: no filters, no noise.

    Attributes:
        temperature: ≥ 0; 0 is greedy.
        top_p: (0, 1]; smallest set of most likely tokens whose mass reaches it.
        top_k: 0 (off) or the number of tokens kept.
        min_p: [0, 1]; drops tokens less likely than min_p times the most likely one.
        typical_p: (0, 1]; locally typical sampling (Meister et al. 2022); 1 is off.
        repetition_penalty: > 0; divides positive and multiplies negative logits of tokens seen in prompt or output.
        presence_penalty: subtracted once from tokens seen in the output.
        frequency_penalty: subtracted per occurrence in the output.
        logit_bias: (token id, bias) pairs, added to the logits.
        seed: None until admission draws one; then 64 bits.
        max_tokens: output tokens at most; None means as many as the context allows.
        min_tokens: no end-of-sequence or stop token before this many output tokens.
        stop: strings that end the text; searched across token borders.
        stop_token_ids: tokens that end the sample.
        include_stop: keep the stop string in the text.
        ignore_eos: the model's end tokens do not end the sample.
        n: number of independent samples.
        logprobs: None, or how many alternatives to return beside the sampled token's own log probability.
        prompt_logprobs: None, or the same for each prompt token.
        skip_special_tokens: special tokens do not appear in the text.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked; never changes.

    Attributes:
        id: internal, unique, chosen by the server; a caller's own id is a label elsewhere.
        prompt_tokens: token ids, at least one.
        sampling: with its seed resolved at admission.
        eos_token_ids: the model's end tokens (empty under `ignore_eos`).
        arrival_s: the injected clock's time at which the request reached the server.
        deadline_s: the same clock; None is no deadline.
        priority: lower runs first.
        tenant: whose request it is; "" when there are no keys.
        cache_salt: separates prefix caches; part of every page hash.
        adapter: adapter name, or None.
        grammar: compiled grammar handle's key, or None.
        detokenize: whether events carry text.
    """

    id: str
    prompt_tokens: tuple[int, ...]
    sampling: SamplingParams
    eos_token_ids: tuple[int, ...] = ()
    arrival_s: float = 0.0
    deadline_s: float | None = None
    priority: int = 0
    tenant: str = ""
    cache_salt: str = ""
    adapter: str | None = None
    grammar: str | None = None
    media: tuple[tuple[int, int, str], ...] = ()
    detokenize: bool = True


class SequenceState(IntEnum):
    """Where a sequence is in its life: WAITING → RUNNING → (WAITING after preemption) → FINISHED."""

    WAITING = 0
    RUNNING = 1
    FINISHED = 2


@dataclass(slots=True, eq=False)
class Sequence:
    """One sample of a request on its way through the engine; only the scheduler mutates it.

    Attributes:
        id: dense integer, unique within an engine, never reused.
        request: what was asked.
        sample: sample index, 0 ≤ sample < n.
        tokens: prompt and output ids so far (committed ones).
        num_prompt: length of the prompt within `tokens`.
        num_computed: positions whose KV is stored and committed.
        num_scheduled: positions planned, uncommitted steps included; ≥ num_computed.
        slot: backend slot, -1 while it has none.
        tables: one page table per KV group; -1 marks a page freed behind a window.
        drafts: proposed next tokens, not yet verified.
        num_cached: prompt tokens that came from the prefix cache at first admission.
        num_preemptions: how often it lost its pages.
        first_scheduled_s, first_token_s: injected clock, -1.0 until known.
    """

    id: int
    request: Request
    sample: int
    tokens: list[int]
    num_prompt: int
    num_computed: int = 0
    num_scheduled: int = 0
    slot: int = -1
    tables: tuple[list[int], ...] = ()
    drafts: tuple[int, ...] = ()
    state: SequenceState = SequenceState.WAITING
    num_cached: int = 0
    num_preemptions: int = 0
    first_scheduled_s: float = -1.0
    first_token_s: float = -1.0

    @property
    def num_output(self) -> int:
        """Output tokens so far."""
        return len(self.tokens) - self.num_prompt


class TokenLogprobs(NamedTuple):
    """Log probabilities at one position, of the raw model distribution (before penalties, bias and filters)."""

    token: int
    logprob: float
    rank: int  # 1 is the most likely
    top: tuple[tuple[int, float], ...]  # (token, logprob), most likely first


class Usage(NamedTuple):
    """Token counts of one request's sample."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class Timing(NamedTuple):
    """Times of one sample on the injected clock, in seconds; -1.0 where it never got there."""

    arrival_s: float
    scheduled_s: float
    first_token_s: float
    finished_s: float
    num_preemptions: int


class Finish(NamedTuple):
    """The end of one sample."""

    reason: FinishReason
    stop: str | int | None  # the stop string or stop token that matched
    usage: Usage
    timing: Timing


class Event(NamedTuple):
    """What one step brought for one sample of a request; deltas, in order. Coalescing adds tokens and text together."""

    sample: int
    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None  # once, first entry None; on sample 0 only
    finish: Finish | None = None
    error: Exception | None = None  # a PenstockError; ends every sample of the request


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The engine's state at one moment, for health, metrics and people."""

    now_s: float
    steps: int  # committed steps
    last_progress_s: float  # when a step last committed, or when the engine last had nothing to do
    num_running: int
    num_waiting: int
    oldest_waiting_s: float  # age of the oldest waiting request, 0 when there is none
    pages_total: int
    pages_free: int
    pages_cached: int
    pages_held: int
    prefix_queries_tokens: int
    prefix_hits_tokens: int
    num_preemptions: int
    num_finished: int
    num_cancelled: int
    num_errors: int
    prompt_tokens: int
    output_tokens: int
    draining: bool = False
    dead: bool = False
    extra: dict[str, float] = field(default_factory=dict)
