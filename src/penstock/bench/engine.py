"""Steps of a model in process: prefill, decode and both at once, each as a share of what the machine's limits allow.

Knows nothing about requests or HTTP. Invariant: what is timed is a plan through the backend that serves, sampling
included; every sequence has pages of its own, filled with keys and values that were computed or copied, so that no
cache holds what memory would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.assemble import find_model, model_name
from penstock.backend.cpu import CpuBackend, CpuOptions, Pool, read_machine
from penstock.bench import stats
from penstock.bench.machine import MachineLimits
from penstock.bench.store import StepFigure
from penstock.bench.work import Share, Work
from penstock.core import NO_OUTPUT, SAMPLE, ConfigError, Opened, PageCopy, Row, SamplingParams, StepPlan
from penstock.model import Checkpoint, open_checkpoint

WARM_STEPS = 2
PAGE_TOKENS = 32
SHARE_OF_FREE = 2
GREEDY = SamplingParams(temperature=0.0)
SEED = 1
COPIES_A_STEP = 4096
MAX_STREAMS = 1024


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """Which steps are measured.

    Attributes:
        streams: numbers of sequences that decode.
        depths: tokens that each holds when it begins.
        prompts: lengths of prefills, each one step.
        mixed_prompt: tokens of a prompt that come with decoding sequences in one step; 0 for none.
        steps: decode steps that are timed.
        repeats: prefills and mixed steps that are timed.
        kv_type: "auto", "bf16", "f32" or "int8".
        isa: compute tier at most.
        pack_cache: whether repacked weights are kept on disk.
    """

    streams: tuple[int, ...] = (1, 8, 16, 32)
    depths: tuple[int, ...] = (512, 2048)
    prompts: tuple[int, ...] = (512, 2048)
    mixed_prompt: int = 256
    steps: int = 24
    repeats: int = 7
    kv_type: str = "auto"
    isa: str | None = None
    pack_cache: bool = True

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        decoding = max(self.depths, default=0) + WARM_STEPS + max(self.steps, self.repeats + 1)
        return max(decoding, *self.prompts, self.mixed_prompt)


def bench_engine(
    model: str | None,
    plan: EnginePlan,
    machine: MachineLimits,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[StepFigure]:
    """The figures of a model's steps, each as soon as it is measured.

    Args:
        model: as `penstock serve` takes it; None is the bundled one.
        plan: which steps.
        machine: its limits, measured in the same run.
        say: takes lines for people.

    Raises:
        ModelFileError: the model can't be read.
        ConfigError: the plan asks for more than model or machine has.
    """
    checkpoint = open_checkpoint(find_model(model, None, say))
    yield from measure_engine(checkpoint, model_name(model, checkpoint.name), plan, machine)


def measure_engine(
    checkpoint: Checkpoint, name: str, plan: EnginePlan, machine: MachineLimits, pool: Pool | None = None
) -> Iterator[StepFigure]:
    """The figures of an opened checkpoint's steps: prefills, then decoding and mixed steps by depth and streams.

    Raises:
        ConfigError: the plan asks for more than model or machine has.
    """
    check_plan(plan, checkpoint.spec.max_tokens)
    bench = StepBench(checkpoint, name, plan, machine, pool)
    try:
        for length in plan.prompts:
            yield bench.prefill(length)
        for depth in plan.depths:
            bench.fill(depth)
            for streams in plan.streams:
                yield bench.decode(streams, depth)
                if plan.mixed_prompt:
                    yield bench.mixed(streams, depth)
    finally:
        bench.close()


def check_plan(plan: EnginePlan, max_tokens: int) -> None:
    """Passes a plan that can be measured on a model of that context.

    Raises:
        ConfigError: it can't.
    """
    for field in ("streams", "depths", "prompts"):
        values = getattr(plan, field)
        if not values or min(values) < 1:
            raise ConfigError(f"{field} is {values}; each is at least 1, and there is one.", param=field)
    if max(plan.streams) > MAX_STREAMS:
        raise ConfigError(f"{max(plan.streams):,} streams; at most {MAX_STREAMS:,} are measured.", param="streams")
    if plan.steps < 3 or plan.repeats < 3 or plan.mixed_prompt < 0:
        raise ConfigError(f"{plan.steps} steps, {plan.repeats} repeats: at least 3 of each.", param="steps")
    if plan.longest > max_tokens:
        raise ConfigError(
            f"the plan needs sequences of {plan.longest:,} tokens; the model takes {max_tokens:,}.",
            param="depths",
            hint="lower the depths or the prompts.",
        )


class StepBench:
    """One backend and its plans. Slot and pages of sequence i are number i; one more is for prompts."""

    def __init__(
        self, checkpoint: Checkpoint, name: str, plan: EnginePlan, machine: MachineLimits, pool: Pool | None
    ) -> None:
        self._plan = plan
        self._machine = machine
        self._name = name
        self._prompt_slot = max(plan.streams)
        self._pages_each = -(-plan.longest // PAGE_TOKENS)
        options = CpuOptions(
            max_model_tokens=self._pages_each * PAGE_TOKENS,
            max_running=self._prompt_slot + 1,
            max_step_tokens=max(*plan.prompts, plan.mixed_prompt + self._prompt_slot, *plan.streams),
            page_tokens=PAGE_TOKENS,
            threads=None if pool is not None else machine.threads,
            kv_type=plan.kv_type,
            isa=plan.isa,
            pack_cache=plan.pack_cache,
        )
        self._backend = CpuBackend(checkpoint.spec, checkpoint.weights, options, pool)
        self._groups = len(self._backend.kv_groups)
        self._allocate()
        self._work = Work(checkpoint.spec, checkpoint.weights, self._backend.kv_type)
        self._format = f"{checkpoint.storage[0][0]}, {self._backend.kv_type} KV"
        rng = np.random.default_rng(SEED)
        self._tokens = tuple(int(token) for token in rng.integers(0, checkpoint.spec.vocab, plan.longest))
        self._number = 0
        self._opened: set[int] = set()

    def _allocate(self) -> None:
        pages = self._pages_each * (self._prompt_slot + 1)
        needed = pages * sum(group.bytes_per_page for group in self._backend.kv_groups)
        allowed = read_machine().available_bytes // SHARE_OF_FREE
        if needed > allowed:
            raise ConfigError(
                f"the plan needs {needed:,} bytes of KV; {allowed:,} may be taken.",
                param="streams",
                hint="fewer streams or lower depths.",
            )
        self._backend.allocate((pages,) * self._groups)

    def close(self) -> None:
        """Ends the backend."""
        self._backend.close()

    def prefill(self, length: int) -> StepFigure:
        """One prompt in one step."""
        times = [self._prompt_step(length, ()) for _ in range(self._plan.repeats + 1)][1:]
        return self._figure("prefill", [Share(0, length)], times, (0, 0, length))

    def fill(self, depth: int) -> None:
        """Gives every sequence `depth` tokens: the first computes them, the others get copies of its pages."""
        at, most = 0, max(self._plan.prompts)
        self._release()
        while at < depth:
            count = min(most, depth - at)
            self._step([self._row(0, at, self._tokens[at : at + count], last=at + count == depth)])
            at += count
        pages = -(-depth // PAGE_TOKENS)
        copies = [
            PageCopy(group, page, slot * self._pages_each + page)
            for group in range(self._groups)
            for slot in range(1, max(self._plan.streams))
            for page in range(pages)
        ]
        for first in range(0, len(copies), COPIES_A_STEP):
            self._step([], copies[first : first + COPIES_A_STEP])
        self._release()

    def decode(self, streams: int, depth: int) -> StepFigure:
        """One token for each of the sequences, step after step."""
        self._release()
        times = [
            self._step([self._row(slot, depth + index, self._tokens[index : index + 1]) for slot in range(streams)])
            for index in range(WARM_STEPS + self._plan.steps)
        ][WARM_STEPS:]
        middle = depth + WARM_STEPS + self._plan.steps // 2
        return self._figure("decode", [Share(middle, 1)] * streams, times, (streams, depth, 0))

    def mixed(self, streams: int, depth: int) -> StepFigure:
        """A prompt and one token for each of the sequences in one step."""
        self._release()
        times = []
        for index in range(self._plan.repeats + 1):
            rows = [self._row(slot, depth + index, self._tokens[index : index + 1]) for slot in range(streams)]
            times.append(self._prompt_step(self._plan.mixed_prompt, rows))
        shares = [Share(0, self._plan.mixed_prompt), *[Share(depth + self._plan.repeats // 2, 1)] * streams]
        return self._figure("mixed", shares, times[1:], (streams, depth, self._plan.mixed_prompt))

    def _prompt_step(self, length: int, rows: Sequence[Row]) -> float:
        seconds = self._step([*rows, self._row(self._prompt_slot, 0, self._tokens[:length])])
        self._release((self._prompt_slot,))
        return seconds

    def _row(self, slot: int, start: int, tokens: tuple[int, ...], last: bool = True) -> Row:
        """A row; the first one of a slot brings all its pages, as a hit of a long prefix does."""
        first = slot * self._pages_each
        pages = () if slot in self._opened else tuple(range(first, first + self._pages_each))
        return Row(slot, start, tokens, (pages,) * self._groups, 0, SAMPLE if last else NO_OUTPUT)

    def _step(self, rows: Sequence[Row], copies: Sequence[PageCopy] = ()) -> float:
        """Seconds of one step."""
        opened = tuple(
            Opened(row.slot, row.slot, 0, 0, self._tokens[: row.start + 1], row.start + 1, GREEDY, (), None, None)
            for row in rows
            if row.slot not in self._opened
        )
        self._opened |= {row.slot for row in rows}
        plan = StepPlan(self._number, opened, tuple(rows), tuple(copies), ())
        self._number += 1
        start = time.perf_counter()
        result = self._backend.finish(self._backend.submit(plan), None)
        seconds = time.perf_counter() - start
        if any(row.error for row in result.rows):
            raise ConfigError("the model gives logits that are not finite.", hint="its weights are damaged.")
        return seconds

    def _release(self, slots: Sequence[int] | None = None) -> None:
        """Frees slots, or all; their pages keep what they hold."""
        released = tuple(sorted(self._opened)) if slots is None else tuple(slots)
        if released:
            plan = StepPlan(self._number, (), (), (), released)
            self._number += 1
            self._backend.finish(self._backend.submit(plan), None)
            self._opened -= set(released)

    def _figure(
        self, what: str, shares: Sequence[Share], times: Sequence[float], kind: tuple[int, int, int]
    ) -> StepFigure:
        needs = self._work.needs(shares)
        limit_s, bound = needs.limit(self._machine)
        return StepFigure(
            model=self._name,
            format=self._format,
            what=what,
            streams=kind[0],
            depth=kind[1],
            prompt_tokens=kind[2],
            seconds=stats.median(times),
            tokens=sum(share.tokens for share in shares),
            bytes=needs.bytes,
            int_ops=needs.int_ops,
            float_ops=needs.float_ops,
            limit_s=limit_s,
            bound=bound,
            times_s=tuple(times),
        )
