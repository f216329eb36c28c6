"""Whole chat requests from a file, tools and all: agents' sessions whose turns grow from each other.

Knows nothing about tokenizers. Invariant: a request goes out as it stands in the file, but for a mark at its very
beginning that keeps repetitions from meeting in the prefix cache.

Format: JSON lines with name and request, the body of a chat completion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from penstock.bench.counters import TokenCounter
from penstock.bench.options import LENGTHS, LeftOut, WorkloadOptions, files_of, planned, timed_one_by_one
from penstock.bench.planned import MARK_TOKENS, Planned, Workload
from penstock.bench.trace_file import refuse, trace_objects
from penstock.core import ConfigError
from penstock.core.limits import MAX_BENCH_REQUESTS, MAX_MESSAGES, MAX_TOOLS

MAX_BODIES = 10_000
KEPT = ("tools", "tool_choice", "reasoning_effort", "chat_template_kwargs")  # what makes the prompt; the rest is ours


@dataclass(frozen=True, slots=True)
class Body:
    """A request of the file.

    Attributes:
        name: its name there.
        messages: the conversation.
        extra: the other fields that make the prompt.
    """

    name: str
    messages: tuple[dict[str, Any], ...]
    extra: dict[str, Any]


def read_bodies(path: Path) -> list[list[Body]]:
    """The sessions of a file: each request follows the longest one whose messages it begins with.

    Raises:
        ConfigError: the file can't be read, has another format, or a request is out of bounds; names the line.
    """
    bodies: list[Body] = []
    number = 1
    for number, found in trace_objects(path):
        request = found.get("request")
        messages = request.get("messages") if isinstance(request, dict) else None
        if not isinstance(request, dict) or not isinstance(messages, list) or not messages:
            refuse(path, number, "has no request with messages")
        if len(messages) > MAX_MESSAGES or not all(isinstance(message, dict) for message in messages):
            refuse(path, number, f"has messages that are no objects, or more than {MAX_MESSAGES}")
        tools = [] if request.get("tools") is None else request["tools"]
        if not isinstance(tools, list) or len(tools) > MAX_TOOLS or not all(isinstance(tool, dict) for tool in tools):
            refuse(path, number, f"has tools that are no objects, or more than {MAX_TOOLS}")
        extra = {name: request[name] for name in KEPT if request.get(name) is not None}
        bodies.append(Body(str(found.get("name", number))[:200], tuple(messages), extra))
        if len(bodies) > MAX_BODIES:
            refuse(path, number, f"is past {MAX_BODIES} requests")
    if not bodies:
        refuse(path, number, "is the last one: there are no requests")
    return sessions_of(bodies)


def sessions_of(bodies: Sequence[Body]) -> list[list[Body]]:
    """The requests as sessions, each growing from turn to turn."""
    sessions: list[list[Body]] = []
    for body in sorted(bodies, key=lambda one: len(one.messages)):
        grown = [session for session in sessions if goes_on(session[-1], body)]
        if grown:
            max(grown, key=lambda session: len(session[-1].messages)).append(body)
        else:
            sessions.append([body])
    return sessions


def goes_on(before: Body, body: Body) -> bool:
    """Whether a request begins with the whole of another one."""
    count = len(before.messages)
    return count < len(body.messages) and body.messages[:count] == before.messages and body.extra == before.extra


def agentic(options: WorkloadOptions, counter: TokenCounter | None = None) -> Workload:
    """The sessions of a file, all once or over again as often as `num_requests` takes.

    Args:
        options: what it is made of; of `lengths` the answers' apply. `distinct` leaves out the marks.
        counter: needed to leave out what doesn't fit into the model: a session ends before a turn that doesn't.

    Raises:
        ConfigError: the file can't be used, or there is no counter.
    """
    if options.max_model_tokens is not None and counter is None:
        raise ConfigError("nothing counts these requests' tokens.", param="max_model_tokens", hint="give a tokenizer.")
    found = read_bodies(files_of(options, 1)[0])
    total = sum(map(len, found))
    rounds = len(found) if options.num_requests is None else MAX_BENCH_REQUESTS
    options = replace(options, num_requests=options.num_requests or total)
    rng = options.rng(LENGTHS)
    left_out = LeftOut()

    def turns() -> Iterator[Planned]:
        for number in range(rounds):
            if number == len(found) and left_out.count == total:
                return  # nothing fits, and never will
            session = found[number % len(found)]
            yield from fitting_turns(options, rng, (number, session), counter, left_out)

    items = timed_one_by_one(turns(), options)
    facts = {"files": [path.name for path in options.files], "think_s": options.think_s} | options.lengths.facts()
    return planned("agentic", items, options, facts, shared=True, left_out=left_out)


def fitting_turns(
    options: WorkloadOptions,
    rng: np.random.Generator,
    numbered: tuple[int, Sequence[Body]],
    counter: TokenCounter | None,
    left_out: LeftOut,
) -> Iterator[Planned]:
    """The turns of one session up to the first that doesn't fit.

    Args:
        options: of the workload.
        rng: of lengths and pauses.
        numbered: the session's number and its requests.
        counter: of tokens, where the model has a limit.
        left_out: counts the others.
    """
    number, session = numbered
    for turn, body in enumerate(session):
        output = options.lengths.draw(rng)[1]
        think_s = float(rng.exponential(options.think_s)) if turn else 0.0
        if options.max_model_tokens is not None and counter is not None:
            count = counter.count(body.messages, body.extra.get("tools") or ())
            if not options.fits(count + MARK_TOKENS + output):
                left_out.add_too_long(count + MARK_TOKENS, output, len(session) - turn)
                return
        yield Planned(
            arrival_s=None,
            max_tokens=output,
            session=number,
            turn=turn,
            think_s=think_s,
            given=body.messages,
            marked=options.distinct is None,
            extra=dict(body.extra),
        )
