"""What makes a run's figures mean something else than they seem to, said in one line each.

Knows nothing about reports. Invariant: a warning is computed from what was asked and seen; each names its figure. The
numbers are those of the list in docs/benchmarking.md, whose other entries are excluded by how things are defined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from penstock.bench.definitions import arrived_in, within
from penstock.bench.records import Ask, Outcome, Seen, Window
from penstock.bench.runner import RunPlan, RunResult

NOTED_LAG_S = 0.005
MERGED_TOKENS = 1.05  # tokens a chunk above which chunks are no tokens
KEPT_UP = 0.95  # ends for each arrival below which the server fell behind


@dataclass(frozen=True, slots=True)
class Facts:
    """A run and what was asked of it.

    Attributes:
        plan: how it ran.
        asks: by id.
        result: what was seen.
        window: what counts.
        shared: whether the workload shares prompts or prefixes on purpose.
    """

    plan: RunPlan
    asks: Mapping[int, Ask]
    result: RunResult
    window: Window
    shared: bool = False

    @property
    def arrived(self) -> list[Seen]:
        """Requests that arrived in the window."""
        return arrived_in(self.result.seen, self.window)

    @property
    def good(self) -> list[Seen]:
        """Those of them that ended well."""
        return [one for one in self.arrived if one.outcome is Outcome.OK]


@dataclass(frozen=True, slots=True)
class Pitfall:
    """A warning with its number in the list."""

    number: int
    text: str


def pitfalls(facts: Facts) -> tuple[Pitfall, ...]:
    """What applies to a run, in the order of the list."""
    return tuple(Pitfall(number, text) for number, check in CHECKS if (text := check(facts)) is not None)


def closed_loop(facts: Facts) -> str | None:
    """A closed loop waits for slow answers before it asks again."""
    if facts.plan.users is None:
        return None
    return (
        f"a closed loop of {facts.plan.users} users: a slow server is asked less, so these latencies hold for no "
        "given rate of arrivals."
    )


def held_back(facts: Facts) -> str | None:
    """A limit of requests in flight closes an open loop."""
    held = facts.result.health.num_held
    if not held:
        return None
    return (
        f"max_in_flight {facts.plan.max_in_flight} held {held} requests back: the loop was closed for them; "
        "latencies from the send leave their wait out, those from the intended arrival have it."
    )


def chunks_are_not_tokens(facts: Facts) -> str | None:
    """Chunks of several tokens make gaps longer and fewer."""
    streamed = [one for one in facts.good if one.chunks_s and one.output_tokens]
    chunks = sum(len(one.chunks_s) for one in streamed)
    tokens = sum(one.output_tokens or 0 for one in streamed)
    if not chunks or tokens <= chunks * MERGED_TOKENS:
        return None
    return f"{tokens} tokens came in {chunks} chunks: ITL and stall are gaps between chunks; TPOT is per token."


def nobody_counted(facts: Facts) -> str | None:
    """Without a count there is nothing per token."""
    unknown = sum(one.output_tokens is None for one in facts.good)
    if not unknown:
        return None
    return f"{unknown} of {len(facts.good)} answers have no token count: they are in no figure per token."


def client_was_late(facts: Facts) -> str | None:
    """The client's own lag is part of what it measures."""
    health = facts.result.health
    lag = max(health.send_lag.p99_s, health.loop_lag.p99_s)
    if facts.result.invalid:
        return "invalid: " + " ".join(facts.result.invalid)
    if lag <= NOTED_LAG_S:
        return None
    return f"the client's own lag was up to {lag * 1e3:.1f} ms (p99): smaller differences mean nothing."


def prompts_have_other_lengths(facts: Facts) -> str | None:
    """The server counted other prompt lengths than were made."""
    off = [
        one.prompt_tokens - made
        for one in facts.arrived
        if one.prompt_tokens is not None
        and one.id in facts.asks
        and (made := facts.asks[one.id].prompt_tokens) is not None
        and one.prompt_tokens != made
    ]
    if not off:
        return None
    return (
        f"{len(off)} of {len(facts.arrived)} prompts have another length than was made: {min(off):+d} to {max(off):+d} "
        "tokens (another tokenizer, or a chat template)."
    )


def prompts_were_reused(facts: Facts) -> str | None:
    """A prompt sent twice measures the prefix cache."""
    if facts.shared:
        return None
    prompts = Counter(str(ask.prompt) for one in facts.result.seen if (ask := facts.asks.get(one.id)) is not None)
    repeated = sum(count - 1 for count in prompts.values())
    cached = sum(one.cached_tokens or 0 for one in facts.arrived)
    total = sum(one.prompt_tokens or 0 for one in facts.arrived)
    if repeated:
        return f"{repeated} prompts were sent before in this run: their prefill may be a cache hit."
    if total and cached / total > 0.01:
        return f"{cached / total:.0%} of the prompt tokens came from the server's cache, though no prompt was reused."
    return None


def outputs_have_other_lengths(facts: Facts) -> str | None:
    """Answers that were to have an exact length and have another."""
    short = [
        one
        for one in facts.good
        if one.output_tokens is not None
        and one.id in facts.asks
        and facts.asks[one.id].ignore_eos
        and one.output_tokens != facts.asks[one.id].max_tokens
    ]
    if not short:
        return None
    return f"{len(short)} of {len(facts.good)} answers are not as long as asked: the server ends early or ignores it."


def some_failed(facts: Facts) -> str | None:
    """Percentiles are of those that ended well."""
    lost = len(facts.arrived) - len(facts.good)
    if not lost:
        return None
    counts = Counter(one.outcome.value for one in facts.arrived if one.outcome is not Outcome.OK)
    named = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    reasons = Counter(one.error for one in facts.arrived if one.outcome is not Outcome.OK and one.error)
    often = f", most often {reasons.most_common(1)[0][0]!r}" if reasons else ""
    return (
        f"{lost} of {len(facts.arrived)} requests did not end well ({named}{often}): percentiles are of the others; "
        "see those with the missing ones as infinite."
    )


def ramp_is_inside(facts: Facts) -> str | None:
    """A window from the very start has the ramp in it, one past the last arrival the drain."""
    first = min((one.intended_s for one in facts.result.seen), default=0.0)
    last = max((one.intended_s for one in facts.result.seen), default=0.0)
    inside = []
    if facts.window.begin_s <= first:
        inside.append("the ramp (nothing arrived before it)")
    if facts.window.end_s > last * 1.05 + 0.1:
        inside.append("the drain")
    return f"the window has {' and '.join(inside)} in it." if inside else None


def fell_behind(facts: Facts) -> str | None:
    """Beyond saturation latencies grow with the length of the run."""
    if facts.plan.users is not None:
        return None
    arrived = len(facts.arrived)
    ended = sum(within(one.end_s, facts.window) for one in facts.result.seen)
    if arrived - ended <= 2 * arrived**0.5 or ended >= KEPT_UP * arrived:
        return None
    return (
        f"{arrived} requests arrived in the window and {ended} ended: the server fell behind, and latencies say how "
        "long the run was."
    )


CHECKS: Sequence[tuple[int, Callable[[Facts], str | None]]] = (
    (1, closed_loop),
    (2, held_back),
    (3, chunks_are_not_tokens),
    (3, nobody_counted),
    (5, client_was_late),
    (6, prompts_have_other_lengths),
    (7, prompts_were_reused),
    (8, outputs_have_other_lengths),
    (10, some_failed),
    (11, ramp_is_inside),
    (13, fell_behind),
)
