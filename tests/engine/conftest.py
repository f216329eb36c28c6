"""A backend whose KV is real although its model is a hash, and an engine around it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from penstock.core import (
    EngineConfig,
    FutureToken,
    KvGroup,
    Request,
    RowResult,
    SamplingParams,
    StepResult,
    TokenLogprobs,
)
from penstock.engine import Engine
from penstock.kv import KvManager
from penstock.sched import Scheduler
from penstock.sim import VirtualClock

VOCAB = 26
MASK = 2**61 - 1


def fold(state: int, token: int) -> int:
    return ((state * 1_000_003) ^ (token + 1)) % MASK


def choose(state: int, seed: int, sample: int) -> int:
    return ((state ^ (seed * 7919 + sample * 104_729)) * 2_654_435_761 % MASK) % VOCAB


def alone(request: Request, sample: int = 0, count: int | None = None) -> list[int]:
    """The oracle: one request, no cache, no pages, no batch."""
    state = 1
    for token in request.prompt_tokens:
        state = fold(state, token)
    output: list[int] = []
    for _ in range(count or request.sampling.max_tokens or 0):
        token = choose(state, request.sampling.seed or 0, sample)
        output.append(token)
        if token in request.sampling.stop_token_ids:
            break
        state = fold(state, token)
    return output


@dataclass
class _Slot:
    seed: int
    sample: int
    wants: tuple[int, ...]
    table: list[int] = field(default_factory=list)


@dataclass
class _Ticket:
    step: int
    result: StepResult


class PagedFake:
    """Each position's state is stored in its page and read back from there: a wrong table gives wrong tokens."""

    def __init__(self, clock: VirtualClock | None = None, page_tokens: int = 4) -> None:
        self.clock = clock
        self.page_tokens = page_tokens
        self.slots: dict[int, _Slot] = {}
        self.memory: dict[tuple[int, int], int] = {}
        self.last: dict[tuple[int, int], int] = {}  # (slot, step) → sampled token
        self.bad_seeds: set[int] = set()
        self.dies_at: int | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False
        self.num_tokens = 0

    @property
    def kv_groups(self) -> tuple[KvGroup, ...]:
        return (KvGroup("full", (0,), 1024),)

    def allocate(self, pages: tuple[int, ...]) -> None:
        pass

    def submit(self, plan):
        if self.dies_at is not None and plan.step >= self.dies_at:
            raise RuntimeError("the device is gone")
        for copy in plan.copies:
            for offset in range(self.page_tokens):
                self.memory[copy.target, offset] = self.memory.get((copy.source, offset), -1)
        for slot in plan.released_slots:
            self.slots.pop(slot, None)
        for opened in plan.opened:
            self.slots[opened.slot] = _Slot(opened.seed, opened.sample, opened.tokens[: opened.num_prompt])
        rows = tuple(self._row(plan.step, row) for row in plan.rows)
        return _Ticket(plan.step, StepResult(plan.step, rows, 0.001 + 0.0001 * len(rows)))

    def _row(self, step, row) -> RowResult:
        slot = self.slots[row.slot]
        slot.table.extend(row.new_pages[0])
        tokens = row.tokens
        if isinstance(tokens, FutureToken):
            tokens = (self.last[tokens.slot, tokens.step],)
        state = 1 if row.start == 0 else self.memory[self._place(slot, row.start - 1)]
        for position, token in enumerate(tokens, row.start):
            state = fold(state, token)
            self.memory[self._place(slot, position)] = state
        self.num_tokens += len(tokens)
        if slot.seed in self.bad_seeds:
            return RowResult(error="invalid_logits")
        prompt_logprobs = None
        if row.output.num:
            first = row.output.first
            prompt_logprobs = tuple(
                TokenLogprobs(slot.wants[p], -float(p), 1, ()) for p in range(first, first + row.output.num)
            )
        if not row.output.sample:
            return RowResult(prompt_logprobs=prompt_logprobs)
        token = choose(state, slot.seed, slot.sample)
        self.last[row.slot, step] = token
        return RowResult((token,), (TokenLogprobs(token, -1.0, 1, ((token, -1.0),)),), prompt_logprobs)

    def _place(self, slot: _Slot, position: int) -> tuple[int, int]:
        return slot.table[position // self.page_tokens], position % self.page_tokens

    def finish(self, ticket, masks) -> StepResult:
        self.gate.wait(30)
        if self.clock is not None:
            self.clock.advance_to(self.clock.now() + ticket.result.duration_s)
        return ticket.result

    def close(self) -> None:
        self.closed = True


class Letters:
    """Token t is the letter of that number."""

    def stream(self, skip_special_tokens: bool, after: int | None = None) -> Letters:
        return self

    def push(self, tokens) -> str:
        return "".join(chr(97 + token) for token in tokens)

    def flush(self) -> str:
        return ""


@dataclass
class Rig:
    """An engine with everything around it in reach."""

    engine: Engine
    scheduler: Scheduler
    kv: KvManager
    backend: PagedFake
    clock: VirtualClock

    def run(self, max_steps: int = 100_000) -> None:
        for _ in range(max_steps):
            if not self.engine.step(self.clock):
                if self.engine.idle:
                    return
                self.clock.advance_to(self.clock.now() + 0.02)
        raise AssertionError("the engine does not come to an end")


@pytest.fixture
def make_rig():
    def make(pages: int = 64, text=None, page_tokens: int = 4, backend: PagedFake | None = None, **choices) -> Rig:
        fields = {
            "max_model_tokens": 128,
            "vocab_size": VOCAB,
            "pages": (pages,),
            "page_tokens": page_tokens,
            "max_running": 16,
            "max_step_tokens": 64,
        }
        config = EngineConfig(**{**fields, **choices})
        clock = VirtualClock()
        fake = backend or PagedFake(clock, page_tokens)
        kv = KvManager(fake.kv_groups, config)
        scheduler = Scheduler(config, kv)
        return Rig(Engine(config, scheduler, fake, text or Letters(), lambda: 12345), scheduler, kv, fake, clock)

    return make


@pytest.fixture
def make_request():
    count = 0

    def make(prompt=(1, 2, 3), **choices) -> Request:
        nonlocal count
        count += 1
        outer = {
            name: choices.pop(name)
            for name in ("deadline_s", "eos_token_ids", "cache_salt", "tenant", "arrival_s", "detokenize", "id")
            if name in choices
        }
        sampling = SamplingParams(**{"max_tokens": 8, "seed": count, "ignore_eos": True, **choices})
        return Request(**{"id": f"r{count}", "prompt_tokens": tuple(prompt), "sampling": sampling, **outer})

    return make


@pytest.fixture
def oracle():
    return alone


def gather(stream) -> dict:
    """All that a finished stream says, sample by sample."""
    found: dict = {"tokens": {}, "text": {}, "finish": {}, "error": None, "prompt_logprobs": None}
    for event in stream.take():
        found["tokens"].setdefault(event.sample, []).extend(event.tokens)
        found["text"][event.sample] = found["text"].get(event.sample, "") + event.text
        if event.finish is not None:
            found["finish"][event.sample] = event.finish
        if event.error is not None:
            found["error"] = event.error
        if event.prompt_logprobs is not None:
            found["prompt_logprobs"] = event.prompt_logprobs
    return found


@pytest.fixture
def collect():
    return gather
