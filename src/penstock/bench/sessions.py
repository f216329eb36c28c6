"""Sessions: conversations of several turns, with time to think between them.

Knows nothing about text. Invariant: a later turn's prompt begins with the whole prompt of the turn before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from penstock.bench.options import (
    LENGTHS,
    PREFIX,
    SESSION,
    LeftOut,
    WorkloadOptions,
    files_of,
    planned,
    timed_one_by_one,
)
from penstock.bench.planned import Planned, Workload
from penstock.bench.prompts import Part
from penstock.core.limits import MAX_BENCH_REQUESTS


def sessions(options: WorkloadOptions) -> Workload:
    """Conversations that arrive by the process, each turn being the one before, an answer to it and what is said next.

    The answer in a later turn's prompt is the server's own, as in a real conversation: its prefix cache holds all but
    what is said next. Or it is a made-up one of the length asked for: prompts are of exact lengths then and the same to
    every server, and the cache is met up to the end of the turn before.
    """
    files_of(options, 0)
    rng = options.rng(LENGTHS)
    left_out = LeftOut()

    def turns() -> Iterator[Planned]:
        for session in range(MAX_BENCH_REQUESTS):
            count = options.turns.draw(rng)
            yield from session_turns(options, rng, session, count, left_out)

    items = timed_one_by_one(turns(), options)
    facts = {
        "turns": options.turns.facts(),
        "next_tokens": options.next_tokens.facts(),
        "think_s": options.think_s,
        "made_up_answers": options.made_up_answers,
    }
    found = planned("sessions", items, options, options.lengths.facts() | facts, shared=True, left_out=left_out)
    return replace(found, own_answers=not options.made_up_answers)


def session_turns(
    options: WorkloadOptions, rng: np.random.Generator, session: int, count: int, left_out: LeftOut
) -> Iterator[Planned]:
    """The turns of one session, as many of them as fit into the model; the others are counted."""
    total = answer = 0
    for turn in range(count):
        prompt, output = options.lengths.draw(rng)
        parts = first_parts(options, session, prompt)
        think_s = 0.0
        if turn:
            said = Part((SESSION, options.seed, session, turn, 1), options.next_tokens.draw(rng))
            parts = (Part((SESSION, options.seed, session, turn, 0), answer, "assistant"), said)
            think_s = float(rng.exponential(options.think_s))
        total += sum(part.tokens for part in parts)
        if not options.fits(total + output):
            left_out.add_too_long(total, output, count - turn)
            return
        answer = output
        yield Planned(arrival_s=None, parts=parts, max_tokens=output, session=session, turn=turn, think_s=think_s)


def first_parts(options: WorkloadOptions, session: int, tokens: int) -> tuple[Part, ...]:
    """The parts of a session's first turn."""
    first = Part((SESSION, options.seed, session, 0, 1), tokens, fresh=True)
    if not options.prefix_tokens:
        return (first,)
    return (Part((PREFIX, options.seed, session % options.num_prefixes), options.prefix_tokens), first)
