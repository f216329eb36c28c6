"""A backend that computes nothing: a step takes as long as a roofline says, tokens come from a function or a record.

Knows nothing about tensors or models. Invariant: what a step brings depends on the plans so far, the costs and the
record alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from penstock.core import ConfigError, KvGroup, RowResult, StepPlan, StepResult, Ticket
from penstock.sim.clock import VirtualClock


@dataclass(frozen=True, slots=True)
class Costs:
    """A machine and a model as a roofline (Williams et al. 2009): a step takes the longer of arithmetic and traffic.

    Attributes:
        weight_bytes: read once a step.
        flops_per_token: 2 × active parameters.
        flops_per_s: what the machine reaches, not its peak.
        bytes_per_s: the same for memory.
        overhead_s: fixed part of every step.
    """

    weight_bytes: float
    flops_per_token: float
    flops_per_s: float
    bytes_per_s: float
    overhead_s: float = 0.0


class CostTicket(NamedTuple):
    """A step under way: the plan and when it will be done."""

    plan: StepPlan
    done_s: float
    duration_s: float

    @property
    def step(self) -> int:
        """The step's number."""
        return self.plan.step


class CostBackend:
    """A backend on a virtual clock (implements core.ports.Backend).

    Args:
        groups: KV groups; their bytes are what attention reads.
        page_tokens: tokens of a page.
        costs: the roofline.
        clock: `finish` moves it to the end of the step.
        vocab_size: made-up ids lie below it.

    Attributes:
        record: results to hand out, oldest first, with the times at which they were committed, instead of made-up
            ones; a replay fills it.
    """

    def __init__(
        self, groups: tuple[KvGroup, ...], page_tokens: int, costs: Costs, clock: VirtualClock, vocab_size: int
    ) -> None:
        self._groups = groups
        self._read = [(group.window, group.bytes_per_page / page_tokens) for group in groups]
        self._costs = costs
        self._clock = clock
        self._vocab_size = vocab_size
        self._free_s = 0.0  # when the step submitted last will be done
        self._keys: dict[int, int] = {}
        self.record: deque[tuple[float, StepResult]] = deque()

    @property
    def kv_groups(self) -> tuple[KvGroup, ...]:
        """As given."""
        return self._groups

    def allocate(self, pages: tuple[int, ...]) -> None:
        """Takes nothing: there is no memory to take."""

    def submit(self, plan: StepPlan) -> CostTicket:
        """Starts the step at the end of the one before, or now."""
        for opened in plan.opened:
            self._keys[opened.slot] = (opened.seed * 0x9E3779B97F4A7C15 + opened.sample * 0xBF58476D1CE4E5B9) % 2**64
        duration_s = self.duration_s(plan)
        self._free_s = max(self._free_s, self._clock.now()) + duration_s
        return CostTicket(plan, self._free_s, duration_s)

    def duration_s(self, plan: StepPlan) -> float:
        """Seconds of a step: its arithmetic or its weights and KV, whichever takes longer."""
        tokens, kv_bytes = 0, 0.0
        for row in plan.rows:
            count = row.num_tokens
            tokens += count
            end = row.start + count
            for window, token_bytes in self._read:
                kv_bytes += token_bytes * (end if window is None or end < window else window)
        costs = self._costs
        arithmetic_s = tokens * costs.flops_per_token / costs.flops_per_s
        return costs.overhead_s + max(arithmetic_s, (costs.weight_bytes + kv_bytes) / costs.bytes_per_s)

    def finish(self, ticket: Ticket, masks: Mapping[int, bytes] | None) -> StepResult:
        """Moves the clock to the step's end; the record's result, or made-up tokens.

        Raises:
            ConfigError: the record belongs to other decisions.
        """
        assert isinstance(ticket, CostTicket)
        plan = ticket.plan
        if self.record:
            now, result = self.record.popleft()
            if result.step != plan.step or len(result.rows) != len(plan.rows):
                raise ConfigError(
                    f"the record has {len(result.rows)} rows of step {result.step}, the plan {len(plan.rows)} rows of "
                    f"step {plan.step}.",
                    param="step_log",
                    hint="the log was altered, or written by another version.",
                )
            self._clock.advance_to(now)
            return result
        self._clock.advance_to(ticket.done_s)
        rows = tuple(
            RowResult((self._token(row.slot, row.start + row.num_tokens),)) if row.output.sample else _NOTHING
            for row in plan.rows
        )
        return StepResult(plan.step, rows, ticket.duration_s)

    def _token(self, slot: int, position: int) -> int:
        """A token that depends on the sequence's seed, its sample index and the position alone."""
        mixed = ((self._keys[slot] ^ position) * 0x94D049BB133111EB) % 2**64
        return (mixed >> 17) % self._vocab_size

    def close(self) -> None:
        """Forgets the slots."""
        self._keys.clear()


_NOTHING = RowResult()
