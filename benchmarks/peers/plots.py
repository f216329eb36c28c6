"""The three plots of the peers' record: throughput against streams, decode against depth, share of the limit.

Knows nothing about how anything was measured. Invariant: a point has its interval, and a contender the same colour in
every plot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from benchmarks.peers.results import OURS, Figures, estimate
from benchmarks.peers.works import CLASSES
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from penstock.bench.plots import COLOURS, GREY, STYLE, panels, plain_log, svg

COLUMNS = 3
PANEL_INCHES, LEGEND_LINE_INCHES = 3.6, 0.19
BAR_INCHES, FRAME_INCHES = 0.21, 0.95
SECOND = {"q4_k_m", "f32"}  # a peer's other format of a class: hollow and dashed


def peer_colours(rows: Sequence[Figures]) -> dict[str, str]:
    """A colour a peer, penstock's always the same one."""
    peers = sorted({row["peer"] for row in rows}, key=lambda peer: (peer != OURS, peer))
    return {peer: COLOURS[at % len(COLOURS)] for at, peer in enumerate(peers)}


def shown_classes(rows: Sequence[Figures]) -> list[str]:
    """The classes of weights in which contenders can be compared, or all where there are none."""
    known = {bits: {(row["peer"], row["format"]) for row in rows if row["bits"] == bits} for bits in CLASSES}
    several = [bits for bits in CLASSES if len(known[bits]) > 1]
    return several or [bits for bits in CLASSES if known[bits]]


def lines(rows: Sequence[Figures], along: Callable[[Figures], int], label: str, scale: str) -> str:
    """Tokens a second of each contender along one axis, a panel a class of weights; the limit is dotted."""
    colours = peer_colours(rows)
    classes = shown_classes(rows)
    contenders = {bits: list(dict.fromkeys(contender(row) for row in rows if row["bits"] == bits)) for bits in classes}
    most = 1 + max(map(len, contenders.values()))
    figure, axes = panels(len(classes), PANEL_INCHES + LEGEND_LINE_INCHES * most, 4.2 * len(classes))
    for bits, axis in zip(classes, axes, strict=True):
        here = [row for row in rows if row["bits"] == bits]
        for peer, format in contenders[bits]:
            mine = sorted((row for row in here if contender(row) == (peer, format)), key=along)
            draw(axis, mine, along, colours[peer])
        limits = {along(row): row["limit_rate"] for row in here if "limit_rate" in row}
        axis.plot(sorted(limits), [limits[at] for at in sorted(limits)], color=GREY, linestyle=":", label="limit")
        axis.set(title=f"{bits} weights", xlabel=label, ylabel="tokens/s", xscale="log", yscale=scale)
        if scale == "log":
            plain_log(axis.yaxis)
        else:
            axis.set_ylim(bottom=0)
        ticks = sorted({along(row) for row in here})
        axis.set_xticks(ticks, [f"{at:,}" for at in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    return svg(figure, label.split(",")[0])


def contender(row: Figures) -> tuple[str, str]:
    """Peer and format of a row."""
    return row["peer"], row["format"]


def draw(axis: Any, rows: Sequence[Figures], along: Callable[[Figures], int], colour: str) -> None:
    """One contender's points with their intervals; ours is the thick line."""
    peer, format = contender(rows[0])
    found = [(along(row), rate) for row in rows if (rate := estimate(row)) is not None]
    values = [rate.value for _, rate in found]
    spans = [[rate.value - rate.low for _, rate in found], [rate.high - rate.value for _, rate in found]]
    look = {"marker": "s", "markerfacecolor": "white", "linestyle": "--"} if format in SECOND else {"marker": "o"}
    look |= {"linewidth": 2.4, "zorder": 3} if peer == OURS else {"linewidth": 1.3}
    axis.errorbar(
        [at for at, _ in found], values, spans, color=colour, markersize=4, elinewidth=1.0,
        label=f"{peer} {format}", **look,
    )  # fmt: skip


def grid(count: int, height: float) -> tuple[Figure, list[Any]]:
    """A figure with that many axes, some beside each other, each so high."""
    across = min(count, COLUMNS)
    down = -(-count // across)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4 * across, height * down), layout="constrained")
        return figure, [figure.add_subplot(down, across, index + 1) for index in range(count)]


def shares(rows: Sequence[Figures], name: str) -> str:
    """Each contender's part of its limit, a panel a work; all panels have one scale."""
    known = [row | {"share": 100 * row["rate"]["value"] / row["limit_rate"]} for row in rows if "limit_rate" in row]
    works = list(dict.fromkeys((row["work"], row["title"]) for row in known))
    colours = peer_colours(rows)
    most = max(sum(row["work"] == work for row in known) for work, _ in works)
    widest = 1.12 * max(100.0, *(row["share"] for row in known))
    figure, axes = grid(len(works), FRAME_INCHES + BAR_INCHES * most)
    for (work, title), axis in zip(works, axes, strict=True):
        here = sorted((row for row in known if row["work"] == work), key=lambda row: -row["share"])
        bars = axis.barh(range(len(here)), [row["share"] for row in here], color=[colours[row["peer"]] for row in here])
        axis.bar_label(bars, [f"{row['share']:.0f}" for row in here], fontsize=7, padding=2)
        axis.axvline(100, color=GREY, linestyle=":")
        axis.set_yticks(range(len(here)), [" ".join(contender(row)) for row in here], fontsize=7)
        axis.set(title=title, xlabel="% of its limit", xlim=(0, widest), ylim=(most - 0.4, -0.6))
        axis.grid(False, axis="y")
    return svg(figure, name)


def write(rows: Sequence[Figures], folder: Path) -> list[Path]:
    """Writes the plots for which there are figures; returns their paths."""
    rows = [row for row in rows if "rate" in row]
    decoded = [row for row in rows if row["what"] == "decode"]
    depths = {row["tokens"] for row in decoded}
    shallow = [row for row in decoded if row["tokens"] == min(depths)]
    alone = [row for row in decoded if row["streams"] == 1]
    found: list[tuple[str, str]] = []
    if shallow:
        found.append(("peers-streams.svg", lines(shallow, lambda row: int(row["streams"]), "streams", "log")))
    if len(depths) > 1 and alone:
        found.append(("peers-depth.svg", lines(alone, lambda row: int(row["tokens"]), "depth, tokens", "linear")))
    if any("limit_rate" in row for row in rows):
        found.append(("peers-limits.svg", shares(rows, "limits")))
    for name, text in found:
        (folder / name).write_text(text + "\n")
    return [folder / name for name, _ in found]
