"""Plots of runs, sweeps, comparisons and engine steps, each as one inline SVG.

Knows nothing about pages or files. Invariant: a picture needs nothing but itself: no script, no font, no address; text
from records is drawn as it is, never as markup or mathematics.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from penstock.bench.compare import Comparison
from penstock.bench.definitions import Objective, arrived_in, began_s, last_token_s, timing_of
from penstock.bench.records import Outcome
from penstock.bench.stats import Estimate
from penstock.bench.store import LoadRun, StepFigure
from penstock.bench.sweep import GOOD_SHARE, Point, Sweep
from penstock.bench.tables import NAMES, name_of, number

# Told apart by people who see colours differently (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#8a8a8a"
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}
MS = 1e3
MAX_CURVE_POINTS = 400
MAX_DOTS = 1500
PIXELS_AN_INCH = 112
BINS = 60
_ID = re.compile(r'(\bid="|url\(#|href="#)')


def svg(figure: Figure, name: str) -> str:
    """A figure as an SVG element whose ids begin with `name`, so that many share a page."""
    out = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    width = figure.get_figwidth() * PIXELS_AN_INCH
    text = f'<svg style="max-width:{width:.0f}px"' + text[text.index("<svg") + 4 :]
    return _ID.sub(rf"\1{name}-", text).strip()


def panels(count: int, height: float = 3.0, width: float = 9.6) -> tuple[Figure, list[Any]]:
    """A figure with that many axes beside each other."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, [figure.add_subplot(1, count, index + 1) for index in range(count)]


def plain_log(axis: Any) -> None:
    """A logarithmic axis with figures as people write them, at least a factor of two long."""
    low, high = axis.get_view_interval()
    if low > 0 and high / low < 2:
        middle = (low * high) ** 0.5
        axis.set_view_interval(middle / 2**0.5, middle * 2**0.5, ignore=True)
    low, high = axis.get_view_interval()
    few = (1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)
    axis.set_major_locator(LogLocator(subs=few if high / low > 5 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())


def sweep_plot(sweep: Sweep, name: str) -> str:
    """What is achieved, and latencies, against the rate that is offered."""
    figure, (left, right) = panels(2, 3.4)
    points = [point for point in sweep.points if point.valid]
    offered = np.asarray([point.offered for point in points])
    top = float(max(offered, default=1.0))
    left.plot([0, top], [0, top], color=GREY, linewidth=1, linestyle=":", label="all that is offered")
    _errors(left, offered, [point.achieved for point in points], COLOURS[0], "achieved")
    for found, colour, label in ((sweep.knee, COLOURS[1], "knee"), (sweep.sustained, COLOURS[2], "keeps objectives")):
        if found is not None:
            across = left.axhline if label == "knee" else left.axvline
            span = left.axhspan if label == "knee" else left.axvspan
            across(found.value, color=colour, linewidth=1.2, label=f"{label}: {number(found.value)}/s")
            if np.isfinite([found.low, found.high]).all():
                span(found.low, found.high, color=colour, alpha=0.15, linewidth=0)
    left.set(xlabel="offered, requests a second", ylabel="achieved, requests a second", xlim=(0, None), ylim=(0, None))
    left.legend(fontsize=8)
    for index, (metric, q) in enumerate((("ttft", 0.5), ("ttft", 0.99), ("e2e", 0.5), ("e2e", 0.99))):
        have = [(point.offered, point.latencies[metric, q]) for point in points if (metric, q) in point.latencies]
        line = {"linestyle": "-" if q == 0.5 else "--", "marker": "o" if q == 0.5 else "s"}
        label = f"{NAMES[metric]} p{q * 100:g}"
        _errors(right, [x for x, _ in have], [y.times(MS) for _, y in have], COLOURS[index // 2], label, **line)
    right.set(xlabel="offered, requests a second", ylabel="ms", xlim=(0, None))
    if any(point.latencies for point in points):
        right.set_yscale("log")
        plain_log(right.yaxis)
        right.legend(fontsize=8)
    return svg(figure, name)


def _errors(
    axes: Any, x: Sequence[float] | np.ndarray, estimates: Sequence[Estimate], colour: str, label: str, **style: str
) -> None:
    y = np.asarray([one.value for one in estimates])
    ends = np.asarray([(one.low, one.high) for one in estimates]).reshape(-1, 2)
    known = np.isfinite(ends)
    reach = [np.where(known[:, 0], y - ends[:, 0], 0), np.where(known[:, 1], ends[:, 1] - y, 0)]
    look = {"marker": "o", "linestyle": "-", **style}
    axes.errorbar(x, y, yerr=reach, color=colour, label=label, markersize=3.5, capsize=2, elinewidth=1, **look)


def cdf_plot(runs: Sequence[LoadRun], name: str) -> str:
    """Shares of requests within a time: TTFT, gaps, E2E; dashed from the send."""
    figure, axes = panels(3, 3.2)
    shades = colours_of(runs)
    for run, colour in zip(runs, shades, strict=True):
        timings = [timing_of(one) for one in arrived_in(run.seen, run.window) if one.outcome is Outcome.OK]
        label = name_of(run, runs)
        _cdf(axes[0], [timing.ttft_s for timing in timings], colour, label)
        _cdf(axes[0], [timing.ttft_sent_s for timing in timings], colour, None, "--")
        _cdf(axes[1], [gap for timing in timings for gap in timing.gaps_s], colour, None)
        _cdf(axes[2], [timing.e2e_s for timing in timings], colour, None)
        _cdf(axes[2], [timing.e2e_sent_s for timing in timings], colour, None, "--")
    for one, title in zip(axes, ("TTFT (dashed: from the send)", "gaps between chunks", "E2E"), strict=True):
        one.set(xlabel="ms", ylim=(0, 1.01))
        one.set_title(title, fontsize=9)
        if one.lines:  # a logarithmic axis needs something to show
            one.set_xscale("log")
            plain_log(one.xaxis)
        one.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    if any(len(one.lines) for one in axes):
        axes[0].legend(fontsize=7, loc="lower right")
    return svg(figure, name)


def _cdf(axes: Any, values: Sequence[float | None], colour: Any, label: str | None, line: str = "-") -> None:
    known = np.sort(np.asarray([value for value in values if value is not None and value > 0])) * MS
    if not len(known):
        return
    shares = (np.arange(len(known)) + 1) / len(known)
    if len(known) > MAX_CURVE_POINTS:  # the same curve, drawn through evenly spaced shares
        at = np.unique(np.linspace(0, len(known) - 1, MAX_CURVE_POINTS).astype(int))
        known, shares = known[at], shares[at]
    axes.step(known, shares, where="post", color=colour, label=label, linestyle=line)


def colours_of(runs: Sequence[LoadRun]) -> list[Any]:
    """A colour for each run: of a scale where there are many."""
    if len(runs) <= len(COLOURS):
        return list(COLOURS[: len(runs)])
    scale = matplotlib.colormaps["viridis"]
    return [scale(index / (len(runs) - 1) * 0.9) for index in range(len(runs))]


def timeline_plot(run: LoadRun, name: str) -> str:
    """Rates, what is under way, and each request's TTFT over the run's time."""
    figure, axes = panels(3, 2.9)
    end = max([run.duration_s, run.window.end_s, *(seen.intended_s for seen in run.seen)], default=1.0)
    edges = np.linspace(0, end, BINS + 1)
    middle, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    good = [seen for seen in run.seen if seen.outcome is Outcome.OK]
    ends = [seen.end_s for seen in good if seen.end_s is not None]
    bad = [seen.intended_s for seen in run.seen if seen.outcome is not Outcome.OK]
    for times, colour, label in (
        ([seen.intended_s for seen in run.seen], COLOURS[0], "arrive"),
        (ends, COLOURS[2], "end well"),
        (bad, COLOURS[1], "will not end well, by arrival"),
    ):
        if len(times):
            axes[0].step(middle, np.histogram(times, edges)[0] / width, where="mid", color=colour, label=label)
    axes[0].set_title("requests a second", fontsize=9)
    begins = [seen.intended_s for seen in run.seen]
    last = [last_token_s(seen) or end for seen in run.seen]
    first = [began_s(seen) or seen.end_s or end for seen in run.seen]
    axes[1].plot(middle, mean_level(begins, last, edges), color=COLOURS[0], label="under way")
    axes[1].plot(middle, mean_level(begins, first, edges), color=COLOURS[1], label="waiting for the first token")
    axes[1].set_title(f"requests under way, mean of {width:.2g} s", fontsize=9)
    dots = [(seen.intended_s, one) for seen in good if (one := timing_of(seen).ttft_s) is not None and one > 0]
    shown = dots[:: -(-len(dots) // MAX_DOTS)] if dots else []
    axes[2].plot([x for x, _ in shown], [y * MS for _, y in shown], ".", color=COLOURS[0], markersize=3, alpha=0.6)
    axes[2].set_title(
        "TTFT, ms, by arrival" + ("" if len(shown) == len(dots) else f" ({len(shown)} of {len(dots)})"), fontsize=9
    )
    if dots:
        axes[2].set_yscale("log")
        plain_log(axes[2].yaxis)
    for one in axes:
        one.axvspan(0, run.window.begin_s, color="#f1efe8", linewidth=0, zorder=0)
        one.axvspan(run.window.end_s, max(end, run.window.end_s), color="#f1efe8", linewidth=0, zorder=0)
        one.set(xlabel="s (shaded: outside the window)", xlim=(0, end))
    for one in axes[:2]:
        one.set_ylim(0, None)
        if one.lines:
            one.legend(fontsize=7)
    return svg(figure, name)


def mean_level(begins: Sequence[float], ends: Sequence[float], edges: np.ndarray) -> np.ndarray:
    """How many have begun and not ended, on average between each two edges.  # [E - 1] f64."""

    def passed(times: Sequence[float]) -> np.ndarray:
        """Seconds since each of the times that lie before an edge, added up."""
        ordered = np.sort(np.asarray(times, np.float64))
        counts = np.searchsorted(ordered, edges, side="right")
        return np.asarray(counts * edges - np.concatenate([[0.0], np.cumsum(ordered)])[counts])

    return np.asarray(np.diff(passed(begins) - passed(ends)) / np.diff(edges))


def attainment_plot(points: Sequence[Point], objectives: Sequence[Objective], name: str) -> str:
    """Shares of requests that kept every objective, by rate."""
    figure, (axes,) = panels(1, 2.8, 5.6)
    have = [(point.offered, point.attainment) for point in points if point.valid and point.attainment is not None]
    limits = ", ".join(f"{NAMES[one.metric]} ≤ {number(one.limit_s * MS)} ms" for one in objectives)
    _errors(axes, [x for x, _ in have], [y.times(100.0) for _, y in have], COLOURS[2], limits)
    axes.axhline(GOOD_SHARE * 100, color=GREY, linewidth=1, linestyle=":")
    axes.set(xlabel="offered, requests a second", ylabel="% of requests", xlim=(0, None), ylim=(0, 103))
    axes.set_title(f"objectives kept: {limits}", fontsize=9)
    return svg(figure, name)


def rounds_plot(found: Comparison, name: str) -> str:
    """Every figure's ratio: its median and interval, and each round's as a dot."""
    figure, (axes,) = panels(1, 1.2 + 0.34 * len(found.rows), 8.0)
    places = np.arange(len(found.rows))[::-1]
    for place, row in zip(places, found.rows, strict=True):
        colour = {"better": COLOURS[2], "worse": COLOURS[1]}.get(row.verdict, GREY)
        ratio = row.ratio.ratio
        axes.plot([ratio.low, ratio.high], [place, place], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot(row.ratio.rounds, [place] * len(row.ratio.rounds), "o", color=colour, markersize=3.5, alpha=0.7)
        axes.plot([ratio.value], [place], "|", color=colour, markersize=13, markeredgewidth=2.2)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(places, [f"{row.figure.name} ({_direction(row.figure.more_is_better)})" for row in found.rows])
    axes.set(xscale="log", xlabel=f"{found.b} / {found.a}; green: {found.b} is better, orange: worse, grey: not shown")
    plain_log(axes.xaxis)
    return svg(figure, name)


def _direction(more_is_better: bool) -> str:
    return "more is better" if more_is_better else "less is better"


def steps_plot(steps: Sequence[StepFigure], name: str) -> str:
    """Each step's share of its limit."""
    figure, (axes,) = panels(1, 0.9 + 0.24 * len(steps), 8.4)
    places = np.arange(len(steps))[::-1]
    colours = {"prefill": COLOURS[0], "decode": COLOURS[2], "mixed": COLOURS[4]}
    shares = np.asarray([step.share for step in steps]) * 100
    ends = np.asarray([(step.limit_s / step.seconds.high, step.limit_s / step.seconds.low) for step in steps]) * 100
    reach = [np.maximum(0, shares - ends[:, 0]), np.maximum(0, ends[:, 1] - shares)]
    axes.barh(
        places, shares, xerr=reach, color=[colours.get(step.what, GREY) for step in steps], height=0.7, ecolor="#333333"
    )
    axes.set_yticks(places, [step_name(step) for step in steps], fontsize=8)
    axes.axvline(100, color="black", linewidth=1)
    axes.set(xlabel="% of what the machine's limits allow (bandwidth or arithmetic, whichever binds)")
    return svg(figure, name)


def step_name(step: StepFigure) -> str:
    """A step in a few words."""
    parts = [step.model, step.format.split(",")[0], step.what]
    if step.prompt_tokens:
        parts.append(f"{step.prompt_tokens:,} tokens")
    if step.streams:
        parts.append(f"{step.streams} × {step.depth:,}")
    return " · ".join(parts)
