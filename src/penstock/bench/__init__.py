"""Fair benchmarks: load on any OpenAI-compatible endpoint, definitions of its metrics, records, comparison, reports."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from penstock.bench.compare import Comparison, compare_runs, run_comparison
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
from penstock.bench.drive import Target, check_warmup, drive
from penstock.bench.engine import EnginePlan, bench_engine
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
from penstock.bench.machine import MachineLimits, measure_machine
from penstock.bench.options import WorkloadOptions
from penstock.bench.origin import Origin, read_origin
from penstock.bench.pairs import read_pairs
from penstock.bench.percentiles import PERCENTILES, Distribution, distribution
from penstock.bench.pitfalls import Facts, Pitfall, pitfalls
from penstock.bench.planned import Planned, Workload
from penstock.bench.processes import run
from penstock.bench.prompts import Made, Part, PromptKind, PromptMaker
from penstock.bench.records import Ask, Counted, Outcome, Seen, Window
from penstock.bench.runner import Progress, RunPlan, RunResult
from penstock.bench.stats import Estimate
from penstock.bench.store import LoadRun, Record, StepFigure, endpoint_facts, read_record, write_record
from penstock.bench.sweep import Sweep, SweepPlan, analyse, run_sweep
from penstock.bench.tables import (
    Table,
    comparison_table,
    latency_table,
    machine_table,
    markdown,
    outcomes_table,
    rates_table,
    spread,
    steps_table,
    sweep_table,
)
from penstock.bench.traces import Scaling, TraceRow, read_azure, read_mooncake
from penstock.bench.workloads import named_workload

if TYPE_CHECKING:
    from penstock.bench.report import write_report

__all__ = [
    "METRICS",
    "PERCENTILES",
    "POOLED",
    "Arrivals",
    "Ask",
    "Bursts",
    "Client",
    "ClosedLoop",
    "Comparison",
    "Constant",
    "Counted",
    "Distribution",
    "Empirical",
    "Endpoint",
    "EnginePlan",
    "Estimate",
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
    "LoadRun",
    "LocalCounter",
    "Lognormal",
    "MachineLimits",
    "Made",
    "Objective",
    "Observed",
    "Origin",
    "Outcome",
    "Part",
    "Pitfall",
    "Planned",
    "Poisson",
    "Progress",
    "PromptKind",
    "PromptMaker",
    "Ramp",
    "Record",
    "Route",
    "RunPlan",
    "RunResult",
    "Scaling",
    "Seen",
    "ServedModel",
    "ServerCounter",
    "StepFigure",
    "Summary",
    "Sweep",
    "SweepPlan",
    "Table",
    "Target",
    "Timing",
    "TokenCounter",
    "TraceRow",
    "Uniform",
    "Window",
    "Workload",
    "WorkloadOptions",
    "analyse",
    "arrival_facts",
    "arrivals_window",
    "bench_engine",
    "check_warmup",
    "compare_runs",
    "comparison_table",
    "cost_per_million",
    "count_by_text",
    "disagreement",
    "distribution",
    "drive",
    "endpoint_facts",
    "latency_table",
    "machine_table",
    "markdown",
    "measure_machine",
    "named_workload",
    "outcomes_table",
    "parse_arrivals",
    "parse_lengths",
    "parse_objectives",
    "pitfalls",
    "rates_table",
    "read_azure",
    "read_mooncake",
    "read_origin",
    "read_pairs",
    "read_record",
    "run",
    "run_comparison",
    "run_sweep",
    "served_model",
    "spread",
    "steps_table",
    "summarize",
    "sweep_table",
    "timing_of",
    "write_record",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "write_report":  # its plots need the extra `bench`, which no measurement does
        return import_module("penstock.bench.report").write_report
    raise AttributeError(f"module 'penstock.bench' has no attribute {name!r}")
