"""Accuracy figures by hand: KL and agreement of known distributions, and verdicts that can say no."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.accuracy import Distance, distance, log_softmax, statement, table, verdict

WINDOWS = np.zeros((8, 2), np.int32)


def logits(spread: float) -> np.ndarray:
    """Log probabilities of two tokens, p of the first growing with the window.  # [8, 2, 2] f64"""
    shares = np.linspace(0.55, 0.9, 8)[:, None] - spread
    return log_softmax(np.log(np.stack([shares, 1 - shares], -1)).repeat(2, 1))


def test_kl_and_agreement_by_hand() -> None:
    found = distance(logits(0.0), logits(0.1), WINDOWS)
    p, q = np.linspace(0.55, 0.9, 8), np.linspace(0.45, 0.8, 8)
    assert found.kl == pytest.approx(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    assert found.agreement.tolist() == [0.0] + [1.0] * 7  # 0.45 has turned to the other token
    assert found.figures()["top1_agreement"]["value"] == pytest.approx(7 / 8)
    assert distance(logits(0.1), logits(0.1), WINDOWS).kl == pytest.approx(np.zeros(8))


def made(kl: float, agreement: float) -> Distance:
    wave = 1 + 0.1 * np.sin(np.arange(16))
    return Distance(kl * wave, agreement * (1 - 0.001 * wave), 50.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "no_worse"),
    [
        (made(1e-4, 0.99), made(3e-4, 0.98), True),
        (made(1e-4, 0.99), made(1e-4, 0.99), True),
        (made(3e-4, 0.99), made(1e-4, 0.99), False),
        (made(1e-4, 0.95), made(1e-4, 0.99), False),
        (made(0.0, 1.0), made(0.0, 1.0), True),
    ],
)
def test_the_verdict_says_no_where_it_should(ours: Distance, theirs: Distance, no_worse: bool) -> None:
    assert verdict(ours, theirs)["no_worse"] is no_worse


def row(kind: str, ours: Distance, theirs: Distance) -> dict[str, object]:
    apart = {"penstock": ours, "llama.cpp": theirs, "llama.cpp, F32": made(1e-12, 1.0), "control": made(1e-4, 0.99)}
    figures = {who: one.figures() for who, one in apart.items()}
    return {"type": kind, "holds": {"Q4_0": 0.72, "Q6_K": 0.28}, **figures, "verdict": verdict(ours, theirs)}


def test_the_table_and_its_sentence_name_what_is_worse() -> None:
    rows = [row("Q4_0", made(1e-4, 0.99), made(3e-4, 0.98)), row("Q8_0", made(3e-4, 0.99), made(1e-4, 0.99))]
    assert statement(rows[:1]) == "No worse than llama.cpp on the same file and text: all 1 types."
    assert "Q8_0; not worse: 1" in statement(rows)
    text = table(rows)
    assert "| Q4_0 | Q4_0 72%, Q6_K 28% | 1.01e-04" in text
    assert text.count("| **no** |") == 1
