"""One recorded run: a workload's text is made, it is run, what nobody counted is counted, and its window is taken.

Knows nothing about command lines. Invariant: everything that costs time (text, counting) lies outside the run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from penstock.bench.definitions import arrivals_window, count_by_text
from penstock.bench.pitfalls import Facts
from penstock.bench.planned import Workload
from penstock.bench.processes import run
from penstock.bench.prompts import PromptMaker
from penstock.bench.records import Window
from penstock.bench.runner import Report, RunPlan, RunResult
from penstock.bench.store import LoadRun, load_run
from penstock.core import ConfigError

WARMUP_SHARE = 0.1  # of the arrivals' time, where nobody said


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint under load.

    Attributes:
        label: its name in records.
        plan: how it is loaded; the workload says how many users there are.
        maker: of its prompts; one for all runs, so that none is made twice.
        warmup_s: what doesn't count; None is a tenth of the time over which requests arrive.
    """

    label: str
    plan: RunPlan
    maker: PromptMaker
    warmup_s: float | None = None


def drive(
    target: Target, workload: Workload, *, round: int = 0, rate: float | None = None, report: Report | None = None
) -> LoadRun:
    """Runs a workload against a target and returns it as it is recorded.

    Raises:
        ConfigError: the prompts can't be made, the server can't be reached, or nothing arrives after the warm-up.
    """
    check_warmup(target.warmup_s, workload.ends_s)
    asks = list(workload.asks(target.maker))
    plan = replace(target.plan, users=workload.users, stop_s=workload.stop_s, keep_text=True)
    result = run(plan, asks, report)
    count_by_text(result.seen, result.texts, lambda text: len(target.maker.counter.ids(text)))
    window = window_of(result, target.warmup_s)
    if window.begin_s >= window.end_s:
        result = replace(result, invalid=(*result.invalid, empty_because(window, result)))
    facts = Facts(plan, {ask.id: ask for ask in asks}, result, window, workload.shared)
    return load_run(facts, target.label, rate, round)


def window_of(result: RunResult, warmup_s: float | None) -> Window:
    """From the end of the warm-up to the last arrival."""
    if warmup_s is None:
        warmup_s = WARMUP_SHARE * max((one.intended_s for one in result.seen), default=0.0)
    return arrivals_window(result.seen, warmup_s)


def check_warmup(warmup_s: float | None, ends_s: float | None) -> None:
    """Passes a warm-up after which something still arrives, as far as that is known.

    Raises:
        ConfigError: the window would be empty.
    """
    if warmup_s is not None and ends_s is not None and warmup_s > ends_s:
        raise ConfigError(
            f"the warm-up is {warmup_s:g} s, and nothing arrives after {ends_s:.3g} s: no request would count.",
            param="warmup",
            hint="a shorter warm-up, a longer run or more requests.",
        )


def empty_because(window: Window, result: RunResult) -> str:
    """Why nothing counts."""
    last = max((one.intended_s for one in result.seen), default=0.0)
    return (
        f"the window is empty: the warm-up is {window.begin_s:g} s, and the last request arrived at {last:.3g} s. "
        "hint: a shorter warm-up, or a longer run"
    )
