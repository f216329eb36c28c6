"""Every metric, from what was seen: what TTFT, ITL, TPOT, E2E, throughput, goodput and cost mean here.

Knows nothing about how the load was made. Invariant: a metric is a function of Seen and Window alone, so that it can be
computed again from a record; latencies are of requests whose intended arrival lies in the window and that ended well,
the others stand beside them as numbers. The glossary is docs/benchmarking.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from penstock.bench.percentiles import Distribution, distribution
from penstock.bench.records import Counted, Outcome, Seen, Window
from penstock.core import ConfigError

UNITS = {"ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Timing:
    """One request's metrics in seconds, None where it has none.

    Attributes:
        id: the request's.
        ttft_s, e2e_s: first chunk that shows something, and last token, from the intended arrival.
        ttft_sent_s, e2e_sent_s: the same from the send.
        tpot_s: (E2E - TTFT) / (n - 1), n the output tokens: the first token's time is not in it.
        ntpot_s: E2E from the intended arrival / n: it is in it.
        gaps_s: between chunks that show something, in order.
        itl_s: their mean.
        stall_s: the longest of them.
    """

    id: int
    ttft_s: float | None
    e2e_s: float | None
    ttft_sent_s: float | None
    e2e_sent_s: float | None
    tpot_s: float | None
    ntpot_s: float | None
    gaps_s: tuple[float, ...]
    itl_s: float | None
    stall_s: float | None


METRICS: dict[str, Callable[[Timing], float | None]] = {
    "ttft": lambda timing: timing.ttft_s,
    "ttft_sent": lambda timing: timing.ttft_sent_s,
    "e2e": lambda timing: timing.e2e_s,
    "e2e_sent": lambda timing: timing.e2e_sent_s,
    "tpot": lambda timing: timing.tpot_s,
    "ntpot": lambda timing: timing.ntpot_s,
    "itl": lambda timing: timing.itl_s,
    "stall": lambda timing: timing.stall_s,
}
POOLED = "itl_pooled"  # all gaps of all requests in one pot: long answers weigh more


@dataclass(frozen=True, slots=True)
class Objective:
    """An upper limit that a request keeps or not."""

    metric: str
    limit_s: float


@dataclass(frozen=True, slots=True)
class Goodput:
    """Requests that kept every objective.

    Attributes:
        good: how many, of those that arrived in the window.
        attainment: their share of all that arrived, failures included.
        requests_per_s, tokens_per_s: of the good ones, over the window's length.
        by_metric: share of all that arrived that kept that objective alone.
    """

    good: int
    attainment: float
    requests_per_s: float
    tokens_per_s: float
    by_metric: dict[str, float]


@dataclass(frozen=True, slots=True)
class Summary:
    """A run's figures over its window.

    Attributes:
        window: what counts.
        arrived: requests whose intended arrival lies in it.
        outcomes: how those ended.
        latencies: by metric; a metric that no request has is absent.
        retry_after: of refusals that named one.
        requests_per_s: good ends within the window, whenever they arrived.
        output_tokens_per_s: tokens that came within the window, whoever asked for them; an answer's tokens are spread
            evenly over its chunks. Answers without a known count add nothing.
        prompt_tokens_per_s: prompt tokens of answers that began within the window.
        prompt_tokens, cached_tokens, output_tokens: sums over requests that arrived in the window, where known.
        uncounted: good ends in it whose output nobody counted.
        goodput: None without objectives.
    """

    window: Window
    arrived: int
    outcomes: dict[Outcome, int]
    latencies: dict[str, Distribution]
    retry_after: Distribution | None
    requests_per_s: float
    output_tokens_per_s: float
    prompt_tokens_per_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    uncounted: int
    goodput: Goodput | None


def last_token_s(seen: Seen) -> float | None:
    """When its last token was out: the last chunk that showed something, or the finish where that came later.

    The finish stands for last tokens that show nothing (a skipped special token). An answer that was not streamed is
    out when it has ended.
    """
    times = [seen.finish_s] if seen.finish_s is not None else []
    if seen.chunks_s:
        times.append(seen.chunks_s[-1])
    return max(times) if times else seen.end_s


def timing_of(seen: Seen) -> Timing:
    """The metrics of a request that ended well."""
    first = seen.chunks_s[0] if seen.chunks_s else None
    last = last_token_s(seen)
    sent = seen.sent_s
    tokens = seen.output_tokens
    gaps = tuple(after - before for before, after in pairwise(seen.chunks_s))
    tpot = None
    if first is not None and last is not None and tokens is not None and tokens > 1:
        tpot = (last - first) / (tokens - 1)
    return Timing(
        id=seen.id,
        ttft_s=difference(first, seen.intended_s),
        e2e_s=difference(last, seen.intended_s),
        ttft_sent_s=difference(first, sent),
        e2e_sent_s=difference(last, sent),
        tpot_s=tpot,
        ntpot_s=(last - seen.intended_s) / tokens if last is not None and tokens else None,
        gaps_s=gaps,
        itl_s=sum(gaps) / len(gaps) if gaps else None,
        stall_s=max(gaps) if gaps else None,
    )


def difference(later: float | None, earlier: float | None) -> float | None:
    """Seconds between, None where either is unknown."""
    return None if later is None or earlier is None else later - earlier


def arrived_in(seen: Iterable[Seen], window: Window) -> list[Seen]:
    """Those whose intended arrival lies in the window."""
    return [one for one in seen if window.begin_s <= one.intended_s < window.end_s]


def summarize(seen: Sequence[Seen], window: Window, objectives: Sequence[Objective] = ()) -> Summary:
    """The figures of a run over a window.

    Raises:
        ConfigError: the window is empty.
    """
    length = window.end_s - window.begin_s
    if not (0 < length < math.inf):
        raise ConfigError(
            f"the window from {window.begin_s:g} to {window.end_s:g} s is empty.",
            param="window",
            hint="a shorter warm-up or a longer run.",
        )
    arrived = arrived_in(seen, window)
    ok = [one for one in arrived if one.outcome is Outcome.OK]
    timings = [timing_of(one) for one in ok]
    waits = [one.retry_after_s for one in arrived if one.retry_after_s is not None]
    return Summary(
        window=window,
        arrived=len(arrived),
        outcomes=dict(Counter(one.outcome for one in arrived)),
        latencies=latencies_of(timings, len(arrived) - len(ok)),
        retry_after=distribution(waits),
        requests_per_s=sum(one.outcome is Outcome.OK and within(one.end_s, window) for one in seen) / length,
        output_tokens_per_s=tokens_within(seen, window) / length,
        prompt_tokens_per_s=sum(one.prompt_tokens or 0 for one in seen if within(began_s(one), window)) / length,
        prompt_tokens=sum(one.prompt_tokens or 0 for one in arrived),
        cached_tokens=sum(one.cached_tokens or 0 for one in arrived),
        output_tokens=sum(one.output_tokens or 0 for one in arrived),
        uncounted=sum(one.output_tokens is None for one in ok),
        goodput=goodput_of(arrived, objectives, length) if objectives else None,
    )


def latencies_of(timings: Sequence[Timing], missing: int) -> dict[str, Distribution]:
    """Each metric's distribution over requests, and that of all gaps pooled."""
    found = {}
    for name, metric in METRICS.items():
        values = [value for timing in timings if (value := metric(timing)) is not None]
        if (one := distribution(values, missing)) is not None:
            found[name] = one
    if (pooled := distribution([gap for timing in timings for gap in timing.gaps_s])) is not None:
        found[POOLED] = pooled
    return found


def within(at_s: float | None, window: Window) -> bool:
    """Whether a time is known and lies in the window."""
    return at_s is not None and window.begin_s <= at_s < window.end_s


def began_s(seen: Seen) -> float | None:
    """When the answer began to show: its first chunk, or its end where it was not streamed."""
    return seen.chunks_s[0] if seen.chunks_s else seen.end_s


def tokens_within(seen: Iterable[Seen], window: Window) -> float:
    """Output tokens that came within the window, each answer's spread evenly over its chunks."""
    total = 0.0
    for one in seen:
        if not one.output_tokens:
            continue
        times = one.chunks_s or ([one.end_s] if one.end_s is not None else [])
        if times:
            total += one.output_tokens * sum(within(time, window) for time in times) / len(times)
    return total


def meets(seen: Seen, timing: Timing, objective: Objective) -> bool:
    """Whether a request kept an objective; one that did not end well kept none.

    A streamed answer of one token has no TPOT, and one of one chunk no gap: nobody waited, the objective is kept. Where
    a metric is unknown for another reason (not streamed, not counted), it is not.
    """
    if seen.outcome is not Outcome.OK:
        return False
    value = METRICS[objective.metric](timing)
    if value is not None:
        return value <= objective.limit_s
    if objective.metric == "tpot":
        return bool(seen.chunks_s) and seen.output_tokens is not None and seen.output_tokens <= 1
    return objective.metric in ("itl", "stall") and len(seen.chunks_s) == 1


def goodput_of(arrived: Sequence[Seen], objectives: Sequence[Objective], length_s: float) -> Goodput:
    """Goodput of the requests that arrived in a window of that length."""
    kept = {objective.metric: 0 for objective in objectives}
    good = tokens = 0
    for one in arrived:
        timing = timing_of(one)
        each = [meets(one, timing, objective) for objective in objectives]
        for objective, met in zip(objectives, each, strict=True):
            kept[objective.metric] += met
        if all(each):
            good += 1
            tokens += one.output_tokens or 0
    total = max(len(arrived), 1)
    return Goodput(good, good / total, good / length_s, tokens / length_s, {name: kept[name] / total for name in kept})


def parse_objectives(text: str) -> tuple[Objective, ...]:
    """The objectives that a text such as "ttft=200ms,tpot=50ms" names.

    Raises:
        ConfigError: an unknown metric, one named twice, or a limit that is no positive time.
    """
    found: dict[str, Objective] = {}
    for part in text.split(","):
        name, _, limit = (piece.strip() for piece in part.partition("="))
        number = limit.rstrip("ms")
        try:
            seconds = float(number) * UNITS[limit.removeprefix(number)]
        except (KeyError, ValueError):
            seconds = math.nan
        if name not in METRICS or name in found or not (0 < seconds < math.inf):
            raise ConfigError(
                f"{part.strip()!r} is no objective, or named twice.",
                param="objectives",
                hint=f"metric=limit with a unit, such as ttft=200ms; metrics: {', '.join(METRICS)}.",
            )
        found[name] = Objective(name, seconds)
    return tuple(found.values())


def cost_per_million(price_per_hour: float, tokens_per_s: float) -> float | None:
    """Price of a million tokens, in the price's currency; None where no token came.

    Args:
        price_per_hour: of everything that serves.
        tokens_per_s: output tokens, or all, as the caller says beside the figure.
    """
    return None if tokens_per_s <= 0 else price_per_hour / 3600 / tokens_per_s * 1e6


def count_by_text(seen: Iterable[Seen], texts: dict[int, str], count: Callable[[str], int]) -> int:
    """Counts the output of good ends without usage by a tokenizer; returns how many that were.

    Args:
        seen: changed in place.
        texts: answers by id.
        count: tokens of a text, without special ones.
    """
    counted = 0
    for one in seen:
        if one.output_tokens is None and one.outcome is Outcome.OK and one.id in texts:
            one.output_tokens, one.counted = count(texts[one.id]), Counted.TOKENIZER
            counted += 1
    return counted


def arrivals_window(seen: Sequence[Seen], warmup_s: float = 0.0, end_s: float | None = None) -> Window:
    """The window from the end of the warm-up to the last arrival (or `end_s`): ramp and drain lie outside it.

    Where the warm-up is longer it is empty, and ends where it begins.
    """
    last = max((one.intended_s for one in seen), default=0.0)
    return Window(warmup_s, max(warmup_s, math.nextafter(last, math.inf) if end_s is None else end_s))
