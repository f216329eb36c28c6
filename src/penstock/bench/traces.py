"""Requests of production services from published traces, cut out and scaled in time or in rate.

Knows nothing about text or clients. Invariant: what a row says of its lengths and of the blocks that it shares with
others stays as it was, whatever is done to its time.

Formats: Azure LLM inference traces (Azure/AzurePublicDataset), CSV with TIMESTAMP, ContextTokens, GeneratedTokens;
Mooncake traces (kvcache-ai/Mooncake), JSON lines with timestamp in ms, input_length, output_length and hash_ids, one
for each 512 tokens of the prompt, equal where a prompt's text up to that block's end is equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from penstock.bench.bounds import check_between
from penstock.bench.trace_file import count_in, number_in, refuse, trace_lines, trace_objects
from penstock.core import ConfigError
from penstock.core.limits import (
    MAX_BENCH_SPAN_S,
    MAX_MODEL_TOKENS,
    MAX_TRACE_BLOCKS,
    MAX_TRACE_ROWS,
)

AZURE_HEADING = b"TIMESTAMP,ContextTokens,GeneratedTokens"
BLOCK_TOKENS = 512
MAX_HASH_ID = 2**63 - 1
MAX_COPIES = 1000


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request.

    Attributes:
        arrival_s: since the trace's beginning.
        prompt_tokens, output_tokens: at least one each.
        blocks: names of the prompt's blocks of 512 tokens, the last one of what is left; empty where nobody knows.
        copy: 0, or which copy of the trace it is of: copies share no blocks.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    copy: int = 0


def read_azure(path: Path) -> list[TraceRow]:
    """The requests of an Azure trace in order of their time; an answer of no token is asked for as one of one.

    Raises:
        ConfigError: the file can't be read, has another format, or a number is out of bounds; names the line.
    """
    lines = trace_lines(path)
    number, heading = next(lines, (1, b""))
    if heading.removeprefix(b"\xef\xbb\xbf") != AZURE_HEADING:
        refuse(path, number, f"is not {AZURE_HEADING.decode()}")
    stamps: list[tuple[datetime, int, int]] = []
    for number, line in lines:
        try:
            stamp, prompt, output = line.decode("ascii").split(",")
            row = (datetime.fromisoformat(stamp).replace(tzinfo=None), int(prompt), int(output))
        except ValueError:
            refuse(path, number, "is not a time and two counts")
        if not (count_in(row[1], 1, MAX_MODEL_TOKENS) and count_in(row[2], 0, MAX_MODEL_TOKENS)):
            refuse(path, number, f"has a count outside 1..{MAX_MODEL_TOKENS}")
        stamps.append(row)
    if not stamps:
        refuse(path, number, "is the last one: the trace has no rows")
    first = min(stamp for stamp, _, _ in stamps)
    rows = [TraceRow((stamp - first).total_seconds(), prompt, max(1, output)) for stamp, prompt, output in stamps]
    rows.sort(key=lambda row: row.arrival_s)
    check_between("the trace's length in seconds", rows[-1].arrival_s, 0.0, MAX_BENCH_SPAN_S)
    return rows


def read_mooncake(path: Path) -> list[TraceRow]:
    """The requests of a Mooncake trace in order of their time.

    Raises:
        ConfigError: the file can't be read, has another format, or a number is out of bounds; names the line.
    """
    rows: list[TraceRow] = []
    num_blocks = 0
    number = 1
    for number, found in trace_objects(path):
        stamp, prompt, output = (found.get(name) for name in ("timestamp", "input_length", "output_length"))
        if not number_in(stamp, 0, MAX_BENCH_SPAN_S * 1e3):
            refuse(path, number, "has no timestamp within bounds")
        if not (count_in(prompt, 1, MAX_MODEL_TOKENS) and count_in(output, 0, MAX_MODEL_TOKENS)):
            refuse(path, number, f"has no lengths within 1..{MAX_MODEL_TOKENS}")
        assert isinstance(stamp, int | float) and isinstance(prompt, int) and isinstance(output, int)
        blocks = found.get("hash_ids")
        if not isinstance(blocks, list) or not all(count_in(block, 0, MAX_HASH_ID) for block in blocks):
            refuse(path, number, "has no list of hash_ids")
        if len(blocks) != -(-prompt // BLOCK_TOKENS):
            refuse(path, number, f"has {len(blocks)} hash_ids for {prompt} tokens in blocks of {BLOCK_TOKENS}")
        num_blocks += len(blocks)
        if num_blocks > MAX_TRACE_BLOCKS:
            refuse(path, number, f"is past {MAX_TRACE_BLOCKS} blocks")
        rows.append(TraceRow(stamp / 1e3, prompt, max(1, output), tuple(blocks)))
    if not rows:
        refuse(path, number, "is the last one: the trace has no rows")
    rows.sort(key=lambda row: row.arrival_s)
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What is done to a trace's times.

    Attributes:
        begin_s, duration_s: the part that is taken, on the trace's own clock; None takes it to its end.
        time_factor: times are multiplied by it: 0.5 runs the trace at twice its speed, its bursts are steeper too.
        rate_factor: how many times as many requests come in the same time, gaps being of the same nature: below one,
            each is kept with that chance; above, whole copies of the trace are laid over it, each turned by a time of
            its own and sharing no blocks with the others, and of one more copy each is kept with the chance left.
    """

    begin_s: float = 0.0
    duration_s: float | None = None
    time_factor: float = 1.0
    rate_factor: float = 1.0

    def __post_init__(self) -> None:
        check_between("begin_s", self.begin_s, 0.0, MAX_BENCH_SPAN_S)
        if self.duration_s is not None:
            check_between("duration_s", self.duration_s, 1e-3, MAX_BENCH_SPAN_S)
        check_between("time_factor", self.time_factor, 1e-6, 1e6)
        check_between("rate_factor", self.rate_factor, 1e-6, MAX_COPIES)


def scaled(rows: Sequence[TraceRow], scaling: Scaling, rng: np.random.Generator) -> list[TraceRow]:
    """The part of a trace that a scaling takes, at its new times, from zero.

    Raises:
        ConfigError: nothing is left, or more than the limit would be.
    """
    length = max((row.arrival_s for row in rows), default=0.0) - scaling.begin_s
    if scaling.duration_s is not None:
        length = min(length, scaling.duration_s)
    end = np.inf if scaling.duration_s is None else scaling.begin_s + scaling.duration_s
    taken = [
        replace(row, arrival_s=row.arrival_s - scaling.begin_s)
        for row in rows
        if scaling.begin_s <= row.arrival_s < end
    ]
    if len(taken) * scaling.rate_factor > MAX_TRACE_ROWS:
        raise ConfigError(
            f"{len(taken)} rows times {scaling.rate_factor:g} are over {MAX_TRACE_ROWS}.",
            param="rate_factor",
            hint="take a shorter part of the trace.",
        )
    found = list(overlaid(taken, length, scaling.rate_factor, rng))
    if not found:
        raise ConfigError(
            f"none of the trace's {len(rows)} rows is left.", param="trace", hint="take a longer part or more of it."
        )
    if scaling.time_factor != 1.0:
        found = [replace(row, arrival_s=row.arrival_s * scaling.time_factor) for row in found]
    return sorted(found, key=lambda row: row.arrival_s)


def overlaid(
    rows: Sequence[TraceRow], length_s: float, rate_factor: float, rng: np.random.Generator
) -> Iterable[TraceRow]:
    """The rows so many times over, in no order.

    Args:
        rows: of the trace.
        length_s: its own, around which copies are turned.
        rate_factor: how many times; a fraction is a chance.
        rng: of chances and turns.
    """
    whole, chance = divmod(rate_factor, 1.0)
    for copy in range(int(whole) + (chance > 0.0)):
        turn = float(rng.random()) * length_s if copy else 0.0
        kept = np.ones(len(rows), dtype=bool) if copy < whole else rng.random(len(rows)) < chance
        for row, keep in zip(rows, kept.tolist(), strict=True):
            if keep:
                moved = (row.arrival_s + turn) % length_s if turn else row.arrival_s
                yield replace(row, arrival_s=moved, copy=copy)


def fitting(
    rows: Sequence[TraceRow], max_model_tokens: int | None, min_prompt_tokens: int = 1
) -> tuple[list[TraceRow], int]:
    """The rows that a model can take, and how many it can't; none is ever shortened or lengthened.

    Args:
        rows: of a trace.
        max_model_tokens: that prompt and answer together may have; None for no limit.
        min_prompt_tokens: that a prompt has at least.

    Raises:
        ConfigError: none fits.
    """
    most = np.inf if max_model_tokens is None else max_model_tokens
    fits = [
        row for row in rows if row.prompt_tokens >= min_prompt_tokens and row.prompt_tokens + row.output_tokens <= most
    ]
    if not fits:
        raise ConfigError(
            f"none of {len(rows)} requests has a prompt from {min_prompt_tokens} tokens and ends within {most:g}.",
            param="max_model_tokens",
            hint="take another trace or a model with a longer context.",
        )
    return fits, len(rows) - len(fits)
