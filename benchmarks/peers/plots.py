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
MARKERS = {"q4_k_m": "s", "f32": "s"}


def peer_colours(rows: Sequence[Figures]) -> dict[str, str]:
    """A colour a peer, penstock's always the same one."""
    peers = sorted({row["peer"] for row in rows}, key=lambda peer: (peer != OURS, peer))
    return {peer: COLOURS[at % len(COLOURS)] for at, peer in enumerate(peers)}


def lines(rows: Sequence[Figures], along: Callable[[Figures], int], label: str, name: str) -> str:
    """Tokens a second of each contender along one axis, a panel a class of weights; the limit is dotted."""
    colours = peer_colours(rows)
    classes = [bits for bits in CLASSES if any(row["bits"] == bits and "rate" in row for row in rows)]
    figure, axes = panels(len(classes), 4.8, 3.2 * len(classes))
    for bits, axis in zip(classes, axes, strict=False):
        here = [row for row in rows if row["bits"] == bits and "rate" in row]
        for peer, format in dict.fromkeys((row["peer"], row["format"]) for row in here):
            mine = sorted((row for row in here if (row["peer"], row["format"]) == (peer, format)), key=along)
            draw(axis, mine, along, colours[peer], f"{peer} {format}")
        ticks = sorted({along(row) for row in here})
        limits = {along(row): row["limit_rate"] for row in here if "limit_rate" in row}
        axis.plot(sorted(limits), [limits[at] for at in sorted(limits)], color=GREY, linestyle=":", label="limit")
        axis.set(title=f"{bits} weights", xlabel=label, ylabel="tokens/s", xscale="log", yscale="log")
        plain_log(axis.yaxis)
        axis.set_xticks(ticks, [f"{at:,}" for at in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return svg(figure, name)


def draw(axis: Any, rows: Sequence[Figures], along: Callable[[Figures], int], colour: str, label: str) -> None:
    """One contender's points with their intervals."""
    found = [(along(row), rate) for row in rows if (rate := estimate(row)) is not None]
    values = [rate.value for _, rate in found]
    spans = [[rate.value - rate.low for _, rate in found], [rate.high - rate.value for _, rate in found]]
    marker = MARKERS.get(rows[0]["format"], "o")
    axis.errorbar([at for at, _ in found], values, spans, color=colour, marker=marker, markersize=4, label=label)


def grid(count: int, height: float) -> tuple[Figure, list[Any]]:
    """A figure with that many axes, some beside each other, each so high."""
    across = min(count, COLUMNS)
    down = -(-count // across)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * across, height * down), layout="constrained")
        return figure, [figure.add_subplot(down, across, index + 1) for index in range(count)]


def shares(rows: Sequence[Figures], name: str) -> str:
    """Each contender's part of its limit, a panel a work."""
    known = [row for row in rows if "rate" in row and "limit_rate" in row]
    works = list(dict.fromkeys((row["work"], row["title"]) for row in known))
    colours = peer_colours(rows)
    figure, axes = grid(len(works), 0.9 + 0.24 * max(sum(row["work"] == work for row in known) for work, _ in works))
    for (work, title), axis in zip(works, axes, strict=False):
        here = [row for row in known if row["work"] == work]
        here.sort(key=lambda row: row["rate"]["value"] / row["limit_rate"])
        parts = [100 * row["rate"]["value"] / row["limit_rate"] for row in here]
        labels = [f"{row['peer']} {row['format']}" for row in here]
        axis.barh(range(len(here)), parts, color=[colours[row["peer"]] for row in here])
        axis.set_yticks(range(len(here)), labels, fontsize=7)
        axis.set(title=title, xlabel="% of its limit")
        axis.grid(False, axis="y")
    return svg(figure, name)


def write(rows: Sequence[Figures], folder: Path) -> list[Path]:
    """Writes the plots for which there are figures; returns their paths."""
    decoded = [row for row in rows if row["what"] == "decode" and "rate" in row]
    depths = {row["tokens"] for row in decoded}
    shallow = [row for row in decoded if row["tokens"] == min(depths)]
    alone = [row for row in decoded if row["streams"] == 1]
    found: list[tuple[str, str]] = []
    if shallow:
        found.append(("peers-streams.svg", lines(shallow, lambda row: int(row["streams"]), "streams", "streams")))
    if len(depths) > 1 and alone:
        found.append(("peers-depth.svg", lines(alone, lambda row: int(row["tokens"]), "depth, tokens", "depth")))
    if any("limit_rate" in row and "rate" in row for row in rows):
        found.append(("peers-limits.svg", shares(rows, "limits")))
    for name, text in found:
        (folder / name).write_text(text + "\n")
    return [folder / name for name, _ in found]
