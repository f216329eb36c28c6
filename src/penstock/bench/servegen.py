"""Traffic synthesised from published rates and lengths of a production service's clients.

Knows nothing about text. Invariant: each client keeps its own rate, burstiness and lengths in each window of time.

Format: two files made from the data of ServeGen (alibaba/ServeGen; Xiang et al., "ServeGen: Workload Characterization
and Generation of Large Language Model Serving in Production", 2025): rates, CSV with client, t_start_s, rate_rps,
cv_interarrival, dist, param1 (the shape of the fit), param2; lengths, JSON lines with client, t_start_s, and for
input_tokens and output_tokens {length: probability}. A fit's scale is not used: it was fitted to gaps without the
window's pauses, and the rate is the truth.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from penstock.bench.arrivals import MAX_SHAPE, GammaGaps, Gaps, WeibullGaps
from penstock.bench.lengths import Empirical
from penstock.bench.trace_file import number_in, refuse, trace_lines, trace_objects
from penstock.bench.traces import Scaling, TraceRow
from penstock.core import ConfigError
from penstock.core.limits import MAX_BENCH_SPAN_S, MAX_MODEL_TOKENS, MAX_RATE_RPS, MAX_TRACE_ROWS

RATES_HEADING = b"client,t_start_s,rate_rps,cv_interarrival,dist,param1,param2"
WINDOW_S = 600.0
MAX_CLIENTS = 100_000
CHUNK = 32  # gaps drawn at once
MIN_FIT_SHAPES = {"gamma": 1e-4, "weibull": 0.05}


@dataclass(frozen=True, slots=True)
class RateWindow:
    """A client's traffic in one window of 600 s."""

    begin_s: float
    rate_rps: float
    gaps: Gaps


@dataclass(frozen=True, slots=True)
class LengthWindow:
    """A client's lengths from a time on."""

    begin_s: float
    prompt: Empirical
    output: Empirical


WindowPart = tuple[float, float, RateWindow]  # begin, end, and the window that it is of


def read_rates(path: Path) -> dict[int, list[RateWindow]]:
    """The windows of each client, in order.

    Raises:
        ConfigError: the file can't be read, has another format, or a number is out of bounds; names the line.
    """
    lines = trace_lines(path)
    number, heading = next(lines, (1, b""))
    if heading != RATES_HEADING:
        refuse(path, number, f"is not {RATES_HEADING.decode()}")
    clients: dict[int, list[RateWindow]] = {}
    for number, line in lines:
        try:
            client, begin, rate, _, family, shape, _ = line.decode("ascii").split(",")
            key, begin_s, rate_rps, at = int(client), float(begin), float(rate), float(shape)
        except ValueError:
            refuse(path, number, f"is not {RATES_HEADING.decode()}")
        if not (0 <= key < MAX_CLIENTS and 0.0 <= begin_s <= MAX_BENCH_SPAN_S and 0.0 < rate_rps <= MAX_RATE_RPS):
            refuse(path, number, "has a client, a time or a rate out of bounds")
        clients.setdefault(key, []).append(RateWindow(begin_s, rate_rps, gaps_of(path, number, family, at)))
    if not clients:
        refuse(path, number, "is the last one: there are no rates")
    for key, windows in clients.items():
        windows.sort(key=lambda window: window.begin_s)
        for before, after in pairwise(windows):
            if after.begin_s - before.begin_s < WINDOW_S:
                raise ConfigError(
                    f"{path.name}: client {key} has windows less than {WINDOW_S:g} s apart.",
                    param="trace",
                    hint="is it the right file for this format?",
                )
    return clients


def gaps_of(path: Path, number: int, family: str, shape: float) -> Gaps:
    """The gaps that a line names."""
    least = MIN_FIT_SHAPES.get(family.lower())
    if least is None:
        refuse(path, number, f"has the family {family[:40]!r}, none of {', '.join(MIN_FIT_SHAPES)}")
    if not least <= shape <= MAX_SHAPE:
        refuse(path, number, f"has the shape {shape:g}, outside {least:g}..{MAX_SHAPE:g}")
    return GammaGaps(shape) if family.lower() == "gamma" else WeibullGaps(shape)


def read_lengths(path: Path) -> dict[int, list[LengthWindow]]:
    """The lengths of each client, in order of their time; windows without any are left out.

    Raises:
        ConfigError: the file can't be read, has another format, or a number is out of bounds; names the line.
    """
    clients: dict[int, list[LengthWindow]] = {}
    number = 1
    total = 0
    for number, found in trace_objects(path):
        client, begin = found.get("client"), found.get("t_start_s")
        if not (number_in(client, 0, MAX_CLIENTS) and isinstance(client, int)):
            refuse(path, number, "has no client within bounds")
        if not number_in(begin, 0, MAX_BENCH_SPAN_S):
            refuse(path, number, "has no time within bounds")
        assert isinstance(begin, int | float)
        prompt, output = (shares_of(path, number, found.get(name)) for name in ("input_tokens", "output_tokens"))
        total += len(prompt) + len(output)
        if total > MAX_TRACE_ROWS:
            refuse(path, number, f"is past {MAX_TRACE_ROWS} lengths")
        if prompt and output:
            windows = clients.setdefault(client, [])
            windows.append(LengthWindow(float(begin), Empirical(prompt), Empirical(output)))
    if not clients:
        refuse(path, number, "is the last one: there are no lengths")
    for windows in clients.values():
        windows.sort(key=lambda window: window.begin_s)
    return clients


def shares_of(path: Path, number: int, found: Any) -> dict[int, float]:
    """{length: probability} without what has none; lengths of none count as one."""
    if not isinstance(found, dict):
        refuse(path, number, "has no {length: probability}")
    shares: dict[int, float] = {}
    for name, share in found.items():
        try:
            length = max(1, int(float(name)))
        except (ValueError, OverflowError):
            refuse(path, number, f"has the length {name[:40]!r}")
        if length > MAX_MODEL_TOKENS or not number_in(share, 0.0, 1.0):
            refuse(path, number, "has a length or a probability out of bounds")
        if share:
            shares[length] = shares.get(length, 0.0) + share
    return shares


def synthesise(
    rates: Mapping[int, Sequence[RateWindow]],
    lengths: Mapping[int, Sequence[LengthWindow]],
    scaling: Scaling,
    seed: int,
) -> list[TraceRow]:
    """The requests of all clients in a part of the service's days, at times from zero.

    A client without lengths of its own has those of one that has them, the same one always; lengths hold until the
    client's next ones.

    Args:
        rates: of `read_rates`.
        lengths: of `read_lengths`.
        scaling: the part, the factor of every client's rate (its gaps keep their shape), and of all times.
        seed: of everything drawn.

    Raises:
        ConfigError: there are none then, or more than the limit.
    """
    known = sorted(lengths)
    begin_s = scaling.begin_s
    last_s = max(windows[-1].begin_s for windows in rates.values()) + WINDOW_S
    end_s = last_s if scaling.duration_s is None else begin_s + scaling.duration_s
    parts = {client: clipped(rates[client], begin_s, end_s) for client in sorted(rates)}
    check_expected(parts.values(), scaling.rate_factor)
    rows: list[TraceRow] = []
    for client, windows in parts.items():
        rng = np.random.default_rng([seed, client])
        tables = lengths.get(client) or lengths[known[client % len(known)]]
        begins = [table.begin_s for table in tables]
        for at_s in client_times(windows, scaling.rate_factor, rng):
            table = tables[max(0, bisect_right(begins, at_s) - 1)]
            arrival_s = (at_s - begin_s) * scaling.time_factor
            rows.append(TraceRow(arrival_s, table.prompt.draw(rng), table.output.draw(rng)))
    if not rows:
        raise ConfigError(
            f"nobody sends anything from {begin_s:g} s to {end_s:g} s.",
            param="begin_s",
            hint="take another part of the data.",
        )
    return sorted(rows, key=lambda row: row.arrival_s)


def clipped(windows: Sequence[RateWindow], begin_s: float, end_s: float) -> list[WindowPart]:
    """The parts of windows within [begin_s, end_s): begin, end and the window."""
    parts = ((max(begin_s, window.begin_s), min(end_s, window.begin_s + WINDOW_S), window) for window in windows)
    return [(begin, end, window) for begin, end, window in parts if begin < end]


def check_expected(clients: Iterable[Sequence[WindowPart]], factor: float) -> None:
    """Passes parts that will not make too many requests.

    Raises:
        ConfigError: the mean of their number is within a tenth of the limit, or above it.
    """
    mean = factor * sum((end - begin) * window.rate_rps for parts in clients for begin, end, window in parts)
    if mean > 0.9 * MAX_TRACE_ROWS:
        raise ConfigError(
            f"about {mean:.0f} requests, limit {0.9 * MAX_TRACE_ROWS:.0f}.",
            param="duration_s",
            hint="take a shorter part, or a lower rate_factor.",
        )


def endless(gaps: Gaps, rng: np.random.Generator) -> Iterator[float]:
    """One gap after the other."""
    while True:
        yield from gaps.draw(rng, CHUNK).tolist()


def client_times(parts: Sequence[WindowPart], factor: float, rng: np.random.Generator) -> Iterator[float]:
    """Arrivals of one client: of a process of rate one whose clock runs at each window's rate, and stands between.

    Args:
        parts: begin, end and window, in order.
        factor: of the rates.
        rng: of the gaps.
    """
    if not parts:
        return
    left = parts[0][2].gaps.first(rng)  # on the clock of rate one, to the next arrival
    for begin, end, window in parts:
        rate = window.rate_rps * factor
        at, room, gaps = begin, (end - begin) * rate, endless(window.gaps, rng)
        while left < room:
            at += left / rate
            room -= left
            yield at
            left = next(gaps)
        left -= room
