"""The loss curve of a run as a picture, drawn from its log.

Knows nothing about torch. Invariant: what is drawn is what log.jsonl says; of a step taken twice the later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from penstock.core.errors import ConfigError

SMOOTHING_STEPS = 50


@dataclass(frozen=True, slots=True)
class History:
    """Training losses by step, and evaluation losses by source as pairs of step and loss, in order of steps."""

    steps: dict[int, float]
    evaluations: dict[str, dict[int, float]]


def read_history(path: Path) -> History:
    """Return what log.jsonl says; where a step was taken twice, the later record stands.

    Raises:
        ConfigError: a row is not one of ours.
    """
    steps: dict[int, float] = {}
    evaluations: dict[str, dict[int, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            kind, step = row.pop("kind"), int(row.pop("step"))
            if kind == "step":
                steps[step] = float(row["loss"])
            else:
                for name, loss in row.items():
                    evaluations.setdefault(name, {})[step] = float(loss)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}:{number} is not a log row: {error}", hint="remove that line") from error
    return History(dict(sorted(steps.items())), {k: dict(sorted(v.items())) for k, v in evaluations.items()})


def smoothed(values: list[float]) -> list[float]:
    """Return the mean of each value and up to SMOOTHING_STEPS - 1 before it."""
    total = np.concatenate(([0.0], np.cumsum(values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - SMOOTHING_STEPS)
    return [float(mean) for mean in (total[ends] - total[starts]) / (ends - starts)]


def draw_curve(history: History, path: Path) -> None:
    """Write the curve to `path` as a PNG: the smoothed training loss and every evaluation, nats a token over steps."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    losses = list(history.steps.values())
    axes.plot(list(history.steps), smoothed(losses), linewidth=1.2, label="training")
    for name, evaluations in sorted(history.evaluations.items()):
        axes.plot(list(evaluations), list(evaluations.values()), marker="o", markersize=2.5, label=f"{name}, held out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=80, metadata={"Software": None})
