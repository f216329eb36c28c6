"""Workloads that replay services' traces, or are drawn from what was published of them.

Knows nothing about file formats or tokenizers. Invariant: a request keeps its row's lengths and blocks to the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from penstock.bench.options import ARRIVALS, BLOCK, SCALING, LeftOut, WorkloadOptions, files_of, own, planned
from penstock.bench.planned import Planned, Workload, timed
from penstock.bench.prompts import Part
from penstock.bench.servegen import read_lengths, read_rates, synthesise
from penstock.bench.traces import BLOCK_TOKENS, TraceRow, fitting, read_azure, read_mooncake, scaled


def azure(options: WorkloadOptions) -> Workload:
    """The times and lengths of an Azure trace; prompts share nothing."""
    rows = read_azure(files_of(options, 1)[0])
    return replayed("azure", scaled(rows, options.scaling, options.rng(SCALING)), options)


def mooncake(options: WorkloadOptions) -> Workload:
    """The times, lengths and shared prefixes of a Mooncake trace."""
    rows = read_mooncake(files_of(options, 1)[0])
    return replayed("mooncake", scaled(rows, options.scaling, options.rng(SCALING)), options)


def servegen(options: WorkloadOptions) -> Workload:
    """Requests drawn from the rates and lengths of a service's clients; prompts share nothing."""
    rates, lengths = files_of(options, 2)
    rows = synthesise(read_rates(rates), read_lengths(lengths), options.scaling, options.seed)
    return replayed("servegen", rows, options)


def replayed(name: str, rows: Sequence[TraceRow], options: WorkloadOptions) -> Workload:
    """The rows of a trace as requests, at their own times or at those of another process."""
    fits, left_out = fitting(rows, options.max_model_tokens, options.min_prompt_tokens)
    items: Sequence[Planned] = [
        Planned(arrival_s=row.arrival_s, parts=row_parts(options, index, row), max_tokens=row.output_tokens)
        for index, row in enumerate(fits[: options.most])
    ]
    if options.arrivals is not None:
        items = timed(items, options.arrivals, options.rng(ARRIVALS), options.duration_s)
    elif options.duration_s is not None:
        items = [item for item in items if item.arrival_s is not None and item.arrival_s < options.duration_s]
    facts = {"files": [path.name for path in options.files], "scaling": asdict(options.scaling)}
    return planned(name, items, options, facts, shared=any(row.blocks for row in fits), left_out=LeftOut(left_out))


def row_parts(options: WorkloadOptions, index: int, row: TraceRow) -> tuple[Part, ...]:
    """The prompt of a row: its blocks, each with the text that its name stands for, or a text of its own."""
    if not row.blocks:
        return (own(options, index, row.prompt_tokens),)
    last = len(row.blocks) - 1
    return tuple(
        Part(
            (BLOCK, options.seed, row.copy, block),
            BLOCK_TOKENS if at < last else row.prompt_tokens - last * BLOCK_TOKENS,
        )
        for at, block in enumerate(row.blocks)
    )
