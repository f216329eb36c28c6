"""Fair benchmarks: load on any OpenAI-compatible endpoint, definitions of its metrics, records, comparison, reports."""

from penstock.bench.arrivals import (
    Arrivals,
    Bursts,
    ClosedLoop,
    Constant,
    Gamma,
    Poisson,
    Ramp,
    arrival_facts,
    parse_arrivals,
)
from penstock.bench.client import Client, Endpoint, Route
from penstock.bench.counters import LocalCounter, ServerCounter, TokenCounter, disagreement
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
from penstock.bench.discover import ServedModel, served_model
from penstock.bench.drive import Target, drive
from penstock.bench.health import Health, Lag, LagBounds
from penstock.bench.lengths import (
    Empirical,
    Fixed,
    Independent,
    LengthPairs,
    Lengths,
    Lognormal,
    Observed,
    Uniform,
    parse_lengths,
)
from penstock.bench.options import WorkloadOptions
from penstock.bench.percentiles import PERCENTILES, Distribution, distribution
from penstock.bench.pitfalls import Facts, Pitfall, pitfalls
from penstock.bench.planned import Planned, Workload
from penstock.bench.processes import run
from penstock.bench.prompts import Made, Part, PromptKind, PromptMaker
from penstock.bench.records import Ask, Counted, Outcome, Seen, Window
from penstock.bench.runner import Progress, RunPlan, RunResult
from penstock.bench.traces import Scaling, TraceRow, read_azure, read_mooncake
from penstock.bench.workloads import named_workload

__all__ = [
    "METRICS",
    "PERCENTILES",
    "POOLED",
    "Arrivals",
    "Ask",
    "Bursts",
    "Client",
    "ClosedLoop",
    "Constant",
    "Counted",
    "Distribution",
    "Empirical",
    "Endpoint",
    "Facts",
    "Fixed",
    "Gamma",
    "Goodput",
    "Health",
    "Independent",
    "Lag",
    "LagBounds",
    "LengthPairs",
    "Lengths",
    "LocalCounter",
    "Lognormal",
    "Made",
    "Objective",
    "Observed",
    "Outcome",
    "Part",
    "Pitfall",
    "Planned",
    "Poisson",
    "Progress",
    "PromptKind",
    "PromptMaker",
    "Ramp",
    "Route",
    "RunPlan",
    "RunResult",
    "Scaling",
    "Seen",
    "ServedModel",
    "ServerCounter",
    "Summary",
    "Target",
    "Timing",
    "TokenCounter",
    "TraceRow",
    "Uniform",
    "Window",
    "Workload",
    "WorkloadOptions",
    "arrival_facts",
    "arrivals_window",
    "cost_per_million",
    "count_by_text",
    "disagreement",
    "distribution",
    "drive",
    "named_workload",
    "parse_arrivals",
    "parse_lengths",
    "parse_objectives",
    "pitfalls",
    "read_azure",
    "read_mooncake",
    "run",
    "served_model",
    "summarize",
    "timing_of",
]
