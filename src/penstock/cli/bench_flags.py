"""The flags that every load of `penstock bench` has, and what they make: endpoints, workloads, plans.

Knows nothing about what is done with them. Invariant: serve, sweep and compare have the same flags by construction.
"""

from __future__ import annotations

import inspect
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from penstock.core import ConfigError

if TYPE_CHECKING:
    from penstock.bench import (
        Arrivals,
        Endpoint,
        Objective,
        PromptMaker,
        RunPlan,
        Target,
        TokenCounter,
        Workload,
    )

SPARE_TOKENS = 4  # a trace's prompts have at least so much text besides the template, enough for many different ones
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFlags:
    """Flags of a load, by name."""

    workload: Annotated[
        str, typer.Option(metavar="NAME", help="random, sessions, azure, mooncake, servegen or agentic.")
    ] = "random"
    file: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Trace of the workload; servegen takes two.")
    ] = None
    prompt_tokens: Annotated[
        str, typer.Option(metavar="N", help="Length of prompts: 512, 64-256 or lognormal:200,0.8.")
    ] = "512"
    output_tokens: Annotated[str, typer.Option(metavar="N", help="Length of answers, likewise.")] = "128"
    requests: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most so many requests.")] = None
    duration: Annotated[float | None, typer.Option(metavar="SECONDS", help="Nothing arrives after that.")] = None
    warmup: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Does not count; a tenth of the time if left out.")
    ] = None
    drain: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Wait for answers after the last send.")] = 60.0
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of arrivals, lengths and everything else drawn.")] = 0
    text_seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Of prompts' texts; a new one if left out: none was sent before."),
    ] = None
    distinct: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Use so many different prompts again and again.")
    ] = None
    prefix_tokens: Annotated[int, typer.Option(min=0, metavar="N", help="A shared beginning before each prompt.")] = 0
    prefixes: Annotated[int, typer.Option(min=1, metavar="N", help="How many different shared beginnings.")] = 1
    turns: Annotated[str, typer.Option(metavar="N", help="Of a session, as lengths are given.")] = "4"
    next_tokens: Annotated[str, typer.Option(metavar="N", help="What a later turn adds besides the answer.")] = "64"
    think: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Mean pause before a later turn.")] = 0.0
    made_up_answers: Annotated[
        bool, typer.Option("--made-up-answers", help="Later turns hold made-up answers, not the server's own.")
    ] = False
    trace_begin: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Where in the trace to begin.")] = 0.0
    trace_duration: Annotated[float | None, typer.Option(metavar="SECONDS", help="How much of the trace.")] = None
    time_factor: Annotated[float, typer.Option(metavar="X", help="The trace's times are multiplied by it.")] = 1.0
    rate_factor: Annotated[float, typer.Option(metavar="X", help="As many times the trace's requests.")] = 1.0
    natural_ends: Annotated[bool, typer.Option("--natural-ends", help="Answers may end before their length.")] = False
    chat: Annotated[bool, typer.Option("--chat", help="The chat route, through the model's template.")] = False
    token_ids: Annotated[bool, typer.Option("--token-ids", help="Prompts are token ids.")] = False
    stream: Annotated[bool, typer.Option(help="Whether answers are streamed.")] = True
    body: Annotated[str, typer.Option(metavar="JSON", help="Fields of every request besides.")] = '{"temperature": 0}'
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Bearer token. Also PENSTOCK_BENCH_KEY.", envvar="PENSTOCK_BENCH_KEY"),
    ] = None
    timeout: Annotated[float, typer.Option(min=0.001, metavar="SECONDS", help="Of a request, from its send.")] = 600.0
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Count tokens by this model's tokenizer, not the server's.")
    ] = None
    max_in_flight: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Hold requests back beyond it; counted and told.")
    ] = None
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="Clients side by side.")] = 1
    max_lag: Annotated[
        float, typer.Option(min=0, metavar="MS", help="A run in which the client itself is later (p99) is invalid.")
    ] = 20.0
    objectives: Annotated[
        str | None, typer.Option(metavar="LIST", help="Such as ttft=200ms,tpot=50ms: goodput counts by them.")
    ] = None
    price: Annotated[
        float | None, typer.Option(min=0, metavar="MONEY", help="Price an hour of everything that serves.")
    ] = None
    machine: Annotated[
        bool | None, typer.Option(help="Measure this machine's limits first; done by default for a server here.")
    ] = None
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the record here.")] = None
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report here (extra bench).")] = None


def takes_load(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with the flags of a load behind its own; it gets them as `load`."""
    hints = get_type_hints(LoadFlags, include_extras=True)
    names = [item.name for item in fields(LoadFlags)]
    own = [one for one in inspect.signature(verb, eval_str=True).parameters.values() if one.name != "load"]
    shared = [
        inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=item.default, annotation=hints[item.name])
        for item in fields(LoadFlags)
    ]

    @wraps(verb)
    def whole(**given: Any) -> None:
        load = LoadFlags(**{name: given.pop(name) for name in names})
        if load.text_seed is None:  # the texts of an earlier run may still be in the server's cache
            load = replace(load, text_seed=secrets.randbits(48))
        verb(**given, load=load)

    whole.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    whole.__annotations__ = {one.name: one.annotation for one in [*own, *shared]}
    return whole


def endpoint_of(url: str, model: str | None, load: LoadFlags) -> tuple[Endpoint, int | None]:
    """The endpoint with the model that it serves, and how long that model's context is, where it says.

    Raises:
        ConfigError: a flag can't be used, or the server is not there.
    """
    from penstock import bench

    try:
        body = json.loads(load.body)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ConfigError(
            f"--body is {load.body[:80]!r}, no JSON object.", param="body", hint="such as '{\"seed\": 1}'."
        )
    endpoint = bench.Endpoint(
        url=url,
        model=model or "",
        route=bench.Route.CHAT if load.chat else bench.Route.COMPLETIONS,
        stream=load.stream,
        api_key=load.api_key,
        timeout_s=load.timeout,
        body=body,
    )
    found = bench.served_model(endpoint)
    return replace(endpoint, model=found.name), found.max_model_tokens


@contextmanager
def opened(label: str, endpoint: Endpoint, load: LoadFlags) -> Iterator[Target]:
    """The endpoint with a maker of prompts of exact lengths, whose tokenizer is the server's or that of a folder.

    Raises:
        ConfigError: there is no tokenizer to count by.
    """
    from penstock import bench

    kind = bench.PromptKind.CHAT if load.chat else bench.PromptKind.IDS if load.token_ids else bench.PromptKind.TEXT
    with ExitStack() as stack:
        counter: TokenCounter
        if load.tokenizer is None:
            counter = stack.enter_context(bench.ServerCounter(endpoint))
        else:
            from penstock.text import load_tokenizer

            counter = bench.LocalCounter(load_tokenizer(load.tokenizer))
        maker = bench.PromptMaker(counter, kind, load.text_seed or 0)
        yield bench.Target(label, plan_of(endpoint, load), maker, load.warmup)


def plan_of(endpoint: Endpoint, load: LoadFlags) -> RunPlan:
    """How the endpoint is loaded."""
    from penstock import bench

    return bench.RunPlan(
        endpoint=endpoint,
        max_in_flight=load.max_in_flight,
        drain_s=load.drain,
        warm_connections=8,
        processes=load.processes,
        bounds=bench.LagBounds(load.max_lag / 1e3, load.max_lag / 1e3),
    )


def workload_of(
    load: LoadFlags, arrivals: Arrivals | None, max_model_tokens: int | None, seed: int, maker: PromptMaker
) -> Workload:
    """The workload that the flags name.

    Raises:
        ConfigError: a flag can't be used.
    """
    from penstock import bench

    options = bench.WorkloadOptions(
        arrivals=arrivals,
        lengths=bench.Independent(bench.parse_lengths(load.prompt_tokens), bench.parse_lengths(load.output_tokens)),
        num_requests=load.requests,
        duration_s=load.duration,
        seed=seed,
        distinct=load.distinct,
        prefix_tokens=load.prefix_tokens,
        num_prefixes=load.prefixes,
        turns=bench.parse_lengths(load.turns),
        next_tokens=bench.parse_lengths(load.next_tokens),
        think_s=load.think,
        files=tuple(load.file or ()),
        scaling=bench.Scaling(
            begin_s=load.trace_begin,
            duration_s=load.trace_duration,
            time_factor=load.time_factor,
            rate_factor=load.rate_factor,
        ),
        min_prompt_tokens=maker.least_tokens + SPARE_TOKENS,
        max_model_tokens=max_model_tokens,
        ignore_eos=not load.natural_ends,
        made_up_answers=load.made_up_answers,
    )
    return bench.named_workload(load.workload, options, maker.counter)


def objectives_of(load: LoadFlags) -> tuple[Objective, ...]:
    """The objectives; none where none are given."""
    from penstock import bench

    return bench.parse_objectives(load.objectives) if load.objectives else ()


def is_local(endpoint: Endpoint) -> bool:
    """Whether the server runs on this machine, as far as its name tells."""
    return endpoint.parts.hostname in LOCAL_HOSTS
