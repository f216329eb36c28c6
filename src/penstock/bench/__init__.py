"""Fair benchmarks: load on any OpenAI-compatible endpoint, definitions of its metrics, records, comparison, reports."""

from penstock.bench.client import Client, Endpoint, Route
from penstock.bench.definitions import (
    METRICS,
    POOLED,
    Goodput,
    Objective,
    Summary,
    Timing,
    arrivals_window,
    cost_per_million,
    count_by_text,
    parse_objectives,
    summarize,
    timing_of,
)
from penstock.bench.health import Health, Lag, LagBounds
from penstock.bench.percentiles import PERCENTILES, Distribution, distribution
from penstock.bench.pitfalls import Facts, Pitfall, pitfalls
from penstock.bench.processes import run
from penstock.bench.records import Ask, Counted, Outcome, Seen, Window
from penstock.bench.runner import Progress, RunPlan, RunResult

__all__ = [
    "METRICS",
    "PERCENTILES",
    "POOLED",
    "Ask",
    "Client",
    "Counted",
    "Distribution",
    "Endpoint",
    "Facts",
    "Goodput",
    "Health",
    "Lag",
    "LagBounds",
    "Objective",
    "Outcome",
    "Pitfall",
    "Progress",
    "Route",
    "RunPlan",
    "RunResult",
    "Seen",
    "Summary",
    "Timing",
    "Window",
    "arrivals_window",
    "cost_per_million",
    "count_by_text",
    "distribution",
    "parse_objectives",
    "pitfalls",
    "run",
    "summarize",
    "timing_of",
]
