"""Arrivals and lengths of production traffic, read from published traces.

Knows nothing about engines. Invariant: a file cannot make it hold more than the rows asked for, nor a longer line than
the bound.

Format: Azure LLM inference traces (Azure/AzurePublicDataset): CSV with TIMESTAMP, ContextTokens, GeneratedTokens.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

from penstock.core import ConfigError, Request, SamplingParams

MAX_LINE_CHARS = 4096
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"


class Arrival(NamedTuple):
    """One request of a trace."""

    arrival_s: float  # since the trace's first request
    prompt_tokens: int
    output_tokens: int


def read_azure_trace(path: Path, max_rows: int) -> tuple[Arrival, ...]:
    """The first `max_rows` requests of a trace, plain or gzipped.

    Raises:
        ConfigError: the file cannot be read or has another format; names the line.
    """
    try:
        with _open(path) as file:
            if file.readline(MAX_LINE_CHARS).strip() != HEADER:
                raise ConfigError(f"{path.name} does not start with {HEADER}.", param="trace")
            return tuple(_rows(path.name, islice(_lines(file), max_rows)))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}.", param="trace") from None


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="ascii")
    return path.open(encoding="ascii")


def _lines(file: IO[str]) -> Iterator[str]:
    while line := file.readline(MAX_LINE_CHARS):
        yield line


def _rows(name: str, lines: Iterable[str]) -> Iterator[Arrival]:
    first: datetime | None = None
    for number, line in enumerate(lines, 2):
        try:
            stamp, prompt, output = line.strip().split(",")
            when = datetime.fromisoformat(stamp)
            row = Arrival((when - (first or when)).total_seconds(), int(prompt), int(output))
        except (ValueError, TypeError):
            raise ConfigError(f"{name} line {number} is not a time and two counts.", param="trace") from None
        if row.arrival_s < 0.0 or row.prompt_tokens < 1 or row.output_tokens < 0:
            raise ConfigError(f"{name} line {number} has a negative time or count.", param="trace")
        first = first or when
        yield row


def trace_requests(arrivals: Iterable[Arrival], vocab_size: int, max_model_tokens: int) -> Iterator[Request]:
    """One request an arrival, of exactly its lengths: prompts share no prefix, end tokens are ignored.

    An arrival without output still samples one token. One that is longer than `max_model_tokens` is left out; the
    caller can count what came.
    """
    for index, (arrival_s, num_prompt, num_output) in enumerate(arrivals):
        if num_prompt + max(1, num_output) > max_model_tokens or num_prompt >= vocab_size:
            continue
        base = index * 2003 % (vocab_size - num_prompt)
        yield Request(
            id=f"trace-{index}",
            prompt_tokens=tuple(range(base, base + num_prompt)),
            sampling=SamplingParams(max_tokens=max(1, num_output), ignore_eos=True, seed=index),
            arrival_s=arrival_s,
            detokenize=False,
        )
