"""What a workload is made of, and the checks that all workloads share.

Knows nothing about tokenizers or servers. Invariant: every number has passed its bounds, and each kind of choice has a
stream of chance of its own, so that changing one does not move the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from penstock.bench.arrivals import Arrivals, arrival_facts
from penstock.bench.bounds import check_between
from penstock.bench.lengths import Fixed, Independent, LengthPairs, Lengths
from penstock.bench.planned import Planned, Workload, timed, users_of
from penstock.bench.prompts import Part
from penstock.bench.traces import Scaling
from penstock.core import ConfigError
from penstock.core.limits import MAX_BENCH_REQUESTS, MAX_BENCH_SPAN_S, MAX_MODEL_TOKENS

# The first number of a part's key, so that texts of different kinds never meet. The second is the workload's seed, so
# that those of two runs don't either.
OWN, PREFIX, SESSION, BLOCK = range(4)
# The second number of a stream of chance.
ARRIVALS, LENGTHS, CHOICES, SCALING = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadOptions:
    """What a workload is made of; each name reads those that apply to it.

    Attributes:
        arrivals: when; traces have times of their own where this is None.
        lengths: of prompts and answers; agents' requests take the answers' only, traces none.
        num_requests: at most so many requests.
        duration_s: nothing arrives after that.
        seed: of everything drawn.
        distinct: so many different prompts, used again and again; None uses none again.
        prefix_tokens, num_prefixes: a beginning before each prompt, one of so many, each as likely.
        turns: of a session.
        next_tokens: what each later turn adds to the conversation besides the answer, its template included.
        think_s: mean pause before a later turn; pauses are exponential.
        files: of a trace, or of random requests' lengths.
        scaling: the part of a trace and what is done to its times.
        min_prompt_tokens: of what files say, shorter prompts are left out: a template may take more than they have.
        max_model_tokens: what prompt and answer must fit in; None leaves nothing out.
        ignore_eos: whether answers are exactly as long as asked for.
        made_up_answers: whether a session's later prompts hold made-up answers, the same to every server, instead of
            the server's own.
    """

    arrivals: Arrivals | None = None
    lengths: LengthPairs = field(default_factory=lambda: Independent(Fixed(512), Fixed(128)))
    num_requests: int | None = None
    duration_s: float | None = None
    seed: int = 0
    distinct: int | None = None
    prefix_tokens: int = 0
    num_prefixes: int = 1
    turns: Lengths = field(default_factory=lambda: Fixed(4))
    next_tokens: Lengths = field(default_factory=lambda: Fixed(64))
    think_s: float = 0.0
    files: tuple[Path, ...] = ()
    scaling: Scaling = field(default_factory=Scaling)
    min_prompt_tokens: int = 1
    max_model_tokens: int | None = None
    ignore_eos: bool = True
    made_up_answers: bool = False

    def __post_init__(self) -> None:
        for name, least, most in (
            ("num_requests", 1, MAX_BENCH_REQUESTS),
            ("duration_s", 1e-3, MAX_BENCH_SPAN_S),
            ("seed", 0, 2**63 - 1),
            ("distinct", 1, MAX_BENCH_REQUESTS),
            ("prefix_tokens", 0, MAX_MODEL_TOKENS),
            ("num_prefixes", 1, MAX_BENCH_REQUESTS),
            ("think_s", 0.0, MAX_BENCH_SPAN_S),
            ("min_prompt_tokens", 1, MAX_MODEL_TOKENS),
            ("max_model_tokens", 2, MAX_MODEL_TOKENS),
        ):
            if (value := getattr(self, name)) is not None:
                check_between(name, value, least, most)

    def rng(self, stream: int) -> np.random.Generator:
        """A stream of chance of its own."""
        return np.random.default_rng([self.seed, stream])

    @property
    def most(self) -> int:
        """The number of requests that is not passed."""
        return MAX_BENCH_REQUESTS if self.num_requests is None else self.num_requests

    def fits(self, tokens: int) -> bool:
        """Whether the model takes a prompt with its answer."""
        return self.max_model_tokens is None or tokens <= self.max_model_tokens


def own(options: WorkloadOptions, index: int, tokens: int) -> Part:
    """A prompt that is like no other, or like one in each `distinct`."""
    number = index if options.distinct is None else index % options.distinct
    return Part((OWN, options.seed, number), tokens, fresh=options.distinct is None)


def timed_one_by_one(items: Iterator[Planned], options: WorkloadOptions) -> tuple[Planned, ...]:
    """As many items as the options ask for, at the times of their process.

    Raises:
        ConfigError: nothing says when they arrive, or when to end.
    """
    if options.arrivals is None:
        raise ConfigError("nothing says when requests arrive.", param="arrivals", hint="such as poisson:4 or closed:8.")
    closed = users_of(options.arrivals) is not None
    if options.num_requests is None and (closed or options.duration_s is None):
        raise ConfigError(
            "nothing says how many requests there are.",
            param="num_requests",
            hint="give their number" + ("." if closed else ", or how long they arrive."),
        )
    return timed(islice(items, options.most), options.arrivals, options.rng(ARRIVALS), options.duration_s)


@dataclass(slots=True)
class LeftOut:
    """The requests that are not in a plan.

    Attributes:
        count: of them.
        too_short: how many of them have prompts that are too short.
        shortest: prompt and answer, in tokens, of the shortest that the model doesn't take; None where there is none.
    """

    count: int = 0
    too_short: int = 0
    shortest: tuple[int, int] | None = None

    def add_too_short(self) -> None:
        """Counts one whose prompt can't be made exactly."""
        self.count += 1
        self.too_short += 1

    def add_too_long(self, prompt_tokens: int, output_tokens: int, count: int = 1) -> None:
        """Counts one that the model doesn't take, and what can't come without it."""
        self.count += count
        found = (prompt_tokens, output_tokens)
        self.shortest = found if self.shortest is None else min(self.shortest, found, key=sum)


def nothing_left(name: str, options: WorkloadOptions, left_out: LeftOut) -> ConfigError:
    """The error of a workload without requests: whether they are too long, too short or too rare."""
    most = options.max_model_tokens
    if left_out.shortest is not None and most is not None:
        prompt, output = left_out.shortest
        reason = (
            f": the shortest of {left_out.count - left_out.too_short:,} drawn that don't fit has {prompt:,} tokens and "
            f"asks for {output:,}, together {prompt + output:,}; the model takes {most:,}"
        )
        param, hint = "prompt_tokens", f"prompts and answers of at most {most:,} tokens together, or a longer time."
    elif left_out.too_short:
        reason = f": {left_out.too_short:,} have prompts of fewer than {options.min_prompt_tokens:,} tokens"
        param, hint = "prompt_tokens", "longer prompts, or a longer time."
    else:
        reason, param, hint = "", "num_requests", "take a longer time."
    return ConfigError(f"the workload {name} has no requests{reason}.", param=param, hint=hint)


def planned(
    name: str,
    items: Sequence[Planned],
    options: WorkloadOptions,
    facts: dict[str, Any],
    *,
    shared: bool,
    left_out: LeftOut,
) -> Workload:
    """The workload of some items.

    Raises:
        ConfigError: there are none.
    """
    if not items:
        raise nothing_left(name, options, left_out)
    return Workload(
        name=name,
        items=tuple(items),
        facts=facts_of(options) | facts,
        users=users_of(options.arrivals),
        shared=shared or options.distinct is not None,
        left_out=left_out.count,
        ignore_eos=options.ignore_eos,
        stop_s=options.duration_s if users_of(options.arrivals) is not None else None,
    )


def files_of(options: WorkloadOptions, count: int) -> tuple[Path, ...]:
    """The files of a trace.

    Raises:
        ConfigError: not as many as it takes.
    """
    if len(options.files) != count:
        wanted = ("none", "a file", "two files: the rates and the lengths")[count]
        raise ConfigError(
            f"{len(options.files)} files were given.", param="files", hint=f"this workload takes {wanted}."
        )
    return options.files


def facts_of(options: WorkloadOptions) -> dict[str, Any]:
    """What every workload says of itself in a record."""
    return {
        "arrivals": None if options.arrivals is None else arrival_facts(options.arrivals),
        "num_requests": options.num_requests,
        "duration_s": options.duration_s,
        "seed": options.seed,
        "distinct": options.distinct,
        "prefix_tokens": options.prefix_tokens,
        "num_prefixes": options.num_prefixes,
        "min_prompt_tokens": options.min_prompt_tokens,
        "max_model_tokens": options.max_model_tokens,
    }
