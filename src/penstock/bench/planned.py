"""A workload before it has text: what is to be sent when, how long it is, and what it shares.

Knows nothing about tokenizers or clients. Invariant: the same plan gives the same requests to every server; only how
their text comes to its length is the tokenizer's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np

from penstock.bench.arrivals import Arrivals, ClosedLoop
from penstock.bench.prompts import Made, Part, PromptKind, PromptMaker
from penstock.bench.records import Ask
from penstock.core import ConfigError

MARK_DIGITS = 8
MARK_TOKENS = 16  # that a mark adds at most: its characters, and what its end does to the word after it


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One request.

    Attributes:
        arrival_s: intended arrival; None in a closed loop and for later turns, which come when they can.
        parts: of the prompt; of a later turn, what it adds to the turn before: the answer and the next question.
        max_tokens: output asked for.
        session, turn: of a conversation, whose turns follow each other here.
        think_s: pause before a later turn.
        given: a conversation in the place of parts.
        marked: whether it gets a mark at its beginning that no other session and no other run has.
        extra: fields of the request's body besides.
    """

    arrival_s: float | None
    parts: tuple[Part, ...] = ()
    max_tokens: int
    session: int | None = None
    turn: int = 0
    think_s: float = 0.0
    given: tuple[dict[str, Any], ...] = ()
    marked: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its parts."""
        return sum(part.tokens for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is to be sent.

    Attributes:
        name: of its kind.
        items: in the order of their sending, or for a closed loop of their taking.
        facts: where it comes from, for a record.
        users: of a closed loop, else None: what `RunPlan.users` has to be.
        shared: whether prompts or their beginnings are shared on purpose.
        left_out: requests that would not have fitted into the model.
        ignore_eos: whether answers are exactly as long as asked for.
        own_answers: whether later turns hold what the server answered; else the made-up answers of their parts.
        stop_s: when a closed loop asks for nothing more, else None: what `RunPlan.stop_s` has to be.
    """

    name: str
    items: tuple[Planned, ...]
    facts: dict[str, Any]
    users: int | None = None
    shared: bool = False
    left_out: int = 0
    ignore_eos: bool = True
    own_answers: bool = False
    stop_s: float | None = None

    @property
    def ends_s(self) -> float | None:
        """After what time nothing arrives, where that is known before it runs."""
        if self.users is not None:
            return self.stop_s
        times = [item.arrival_s for item in self.items]
        return None if None in times else max((time for time in times if time is not None), default=0.0)

    def asks(self, maker: PromptMaker) -> Iterator[Ask]:
        """The requests with their text, made one after the other; each call makes texts that no call before made.

        Raises:
            ConfigError: a length can't be met, or the maker's kind of prompt doesn't do.
        """
        run = maker.new_run()
        before: tuple[int | None, Made | None] = (None, None)
        for id, item in enumerate(self.items):
            after = before[1] if item.session is not None and item.session == before[0] else None
            if (after is None) != (item.turn == 0):
                raise ConfigError(f"turn {item.turn} of session {item.session} has no turn before it.", param="items")
            said = None
            if after is not None and self.own_answers:
                made, said = next_turn(item, maker, after, run)
            else:
                made = given(item, maker, run) if item.given else maker.make(item.parts, after, run)
            before = (item.session, made)
            yield Ask(
                id=id,
                arrival_s=item.arrival_s,
                prompt=made.prompt,
                prompt_tokens=made.tokens if said is None else None,
                max_tokens=item.max_tokens,
                ignore_eos=self.ignore_eos,
                session=item.session,
                turn=item.turn,
                think_s=item.think_s,
                extra=item.extra,
                said=said,
            )


def next_turn(
    item: Planned, maker: PromptMaker, after: Made, run: int
) -> tuple[Made, str | tuple[dict[str, Any], ...]]:
    """A later turn as it would be with a made-up answer, and what it says behind whatever answer came.

    Raises:
        ConfigError: the prompts of this run are token ids, which no answer's text gives for sure.
    """
    if maker.kind is PromptKind.IDS:
        raise ConfigError(
            "a session of token ids can't hold the server's own answers, which come as text.",
            param="token_ids",
            hint="leave token ids out, or ask for made-up answers.",
        )
    if maker.kind is PromptKind.CHAT:
        made = maker.make(item.parts, after, run)
        return made, (made.prompt[-1],)  # type: ignore[return-value]
    answered = maker.make(item.parts[:1], after, run)
    made = maker.make(item.parts[1:], answered, run)
    return made, str(made.prompt)[len(str(answered.prompt)) :]


def given(item: Planned, maker: PromptMaker, run: int) -> Made:
    """A conversation as it is but for its mark, counted.

    Raises:
        ConfigError: the prompts of this run are no conversations.
    """
    if maker.kind is not PromptKind.CHAT:
        raise ConfigError("whole conversations go to the chat route only.", param="route", hint="use the chat route.")
    messages = item.given
    if item.marked:
        name = f"{maker.seed} {run} {item.session}".encode()
        messages = with_mark(messages, f"[{sha256(name).hexdigest()[:MARK_DIGITS]}]\n")
    return Made(messages, maker.counter.count(messages, item.extra.get("tools") or ()))


def with_mark(messages: Sequence[dict[str, Any]], mark: str) -> tuple[dict[str, Any], ...]:
    """A conversation whose first message's text begins with a mark; one without text there is left alone."""
    first = messages[0]
    if not isinstance(first.get("content"), str):
        return tuple(messages)
    return ({**first, "content": mark + first["content"]}, *messages[1:])


def timed(
    items: Iterable[Planned], arrivals: Arrivals, rng: np.random.Generator, duration_s: float | None
) -> tuple[Planned, ...]:
    """The items at the times of a process instead of their own, until `duration_s`.

    Every first turn gets the next time; later turns go with theirs.
    """
    times = arrivals.times(rng)
    found: list[Planned] = []
    for item in items:
        if item.turn == 0:
            arrival_s = next(times)
            if arrival_s is not None and duration_s is not None and arrival_s >= duration_s:
                break
            item = replace(item, arrival_s=arrival_s)
        found.append(item)
    return tuple(found)


def users_of(arrivals: Arrivals | None) -> int | None:
    """The users of a closed loop."""
    return arrivals.users if isinstance(arrivals, ClosedLoop) else None
