"""Workloads by name: made-up requests, sessions of several turns, traces of services, and agents' requests.

Knows nothing about servers. Invariant: options and a seed give the same plan again, its size is bounded, and what the
model could not take is left out and counted, never shortened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from penstock.bench.agentic import agentic
from penstock.bench.counters import TokenCounter
from penstock.bench.lengths import LengthPairs
from penstock.bench.options import (
    CHOICES,
    LENGTHS,
    PREFIX,
    LeftOut,
    WorkloadOptions,
    files_of,
    own,
    planned,
    timed_one_by_one,
)
from penstock.bench.pairs import read_pairs
from penstock.bench.planned import Planned, Workload
from penstock.bench.prompts import Part
from penstock.bench.replays import azure, mooncake, servegen
from penstock.bench.sessions import sessions
from penstock.core import ConfigError
from penstock.core.limits import MAX_BENCH_REQUESTS

MAX_MISSES: Final = 10_000  # requests in a row, from the first on, that may not fit


def named_workload(name: str, options: WorkloadOptions, counter: TokenCounter | None = None) -> Workload:
    """The workload of a name.

    Args:
        name: random, sessions, azure, mooncake, servegen or agentic.
        options: what it is made of.
        counter: needed to leave out what doesn't fit of requests that are given whole.

    Raises:
        ConfigError: no such name, options that don't go together, or a file that can't be used.
    """
    if name == "agentic":
        return agentic(options, counter)
    if name not in WORKLOADS:
        known = ", ".join((*WORKLOADS, "agentic"))
        raise ConfigError(f"{name[:80]!r} is no workload.", param="workload", hint=f"one of {known}.")
    return WORKLOADS[name](options)


def random_requests(options: WorkloadOptions) -> Workload:
    """Requests that have nothing to do with each other, but for the prefixes that are asked for.

    Their lengths are drawn, or taken from the pairs of a file.
    """
    lengths: LengthPairs = read_pairs(files_of(options, 1)[0]) if options.files else options.lengths
    rng, choices = options.rng(LENGTHS), options.rng(CHOICES)
    left_out = LeftOut()

    def requests() -> Iterator[Planned]:
        for index in range(MAX_BENCH_REQUESTS):
            if index == left_out.count == MAX_MISSES:
                return  # hardly anything fits: that is told at once
            prompt, output = lengths.draw(rng)
            parts: tuple[Part, ...] = (own(options, index, prompt),)
            if options.prefix_tokens:
                prefix = int(choices.integers(options.num_prefixes))
                parts = (Part((PREFIX, options.seed, prefix), options.prefix_tokens), *parts)
            item = Planned(arrival_s=None, parts=parts, max_tokens=output)
            if options.files and prompt < options.min_prompt_tokens:
                left_out.add_too_short()
            elif not options.fits(item.prompt_tokens + output):
                left_out.add_too_long(item.prompt_tokens, output)
            else:
                yield item

    items = timed_one_by_one(requests(), options)
    facts = lengths.facts() | {"files": [path.name for path in options.files]}
    return planned("random", items, options, facts, shared=bool(options.prefix_tokens), left_out=left_out)


WORKLOADS: Final[dict[str, Callable[[WorkloadOptions], Workload]]] = {
    "random": random_requests,
    "sessions": sessions,
    "azure": azure,
    "mooncake": mooncake,
    "servegen": servegen,
}
