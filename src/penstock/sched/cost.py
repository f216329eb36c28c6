"""How long a step will take, learned from the steps so far.

Knows nothing about plans or clocks. Invariant: no coefficient is negative, so a bigger step is never predicted to be
shorter.

Recursive least squares with forgetting (Ljung, System Identification, 2nd ed., section 11.2), each step weighted by
the inverse of its duration so that relative errors count; negative coefficients are set to zero after each update, and
the covariance, kept in factors that rounding can't make negative (Bierman, Factorization Methods for Discrete
Sequential Estimation, 1977), is kept from winding up where the traffic does not excite a feature.
"""

from __future__ import annotations

import math
from typing import NamedTuple

FORGETTING = 0.99
# Prior: 1 ms a step, 5 ms a prefill token, 200 µs a decode row, 20 ns a token of KV read. A prefill token too dear
# makes the first step short, one too cheap many times too long; so it is that of a large model on a small processor.
PRIOR = (1e-3, 5e-3, 2e-4, 2e-8)
# Of the prior, in units of a step's noise, which is some per cent: one step is believed where it says much.
PRIOR_SPREAD = 30.0
MAX_SPREAD = 1000.0
MIN_DURATION_S = 1e-6
MAX_DURATION_S = 3600.0


class StepFeatures(NamedTuple):
    """What the duration of a step depends on."""

    prefill_tokens: int
    decode_rows: int
    kv_tokens: int


class StepCost:
    """An online fit of seconds = c0 + c1·prefill tokens + c2·decode rows + c3·KV tokens read.

    Attributes:
        coefficients: seconds a step, a prefill token, a decode row and a token of KV read.
        observed: whether they say more than the prior.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self.coefficients = list(PRIOR)
        self.observed = False
        # Covariance of the coefficients in units of their priors, as U·diag(d)·Uᵀ with a unit upper triangle.
        self._u = [[1.0 if i == j else 0.0 for j in range(4)] for i in range(4)]
        self._d = [PRIOR_SPREAD**2] * 4

    def predict(self, features: StepFeatures) -> float:
        """Seconds that such a step takes."""
        c = self.coefficients
        return c[0] + c[1] * features.prefill_tokens + c[2] * features.decode_rows + c[3] * features.kv_tokens

    def observe(self, features: StepFeatures, duration_s: float) -> None:
        """Learns from one step; durations that no clock can mean are left out."""
        if not MIN_DURATION_S <= duration_s <= MAX_DURATION_S:
            return
        x = [value * scale / duration_s for value, scale in zip((1, *features), PRIOR, strict=True)]
        error = 1.0 - self.predict(features) / duration_s
        for i, gain in enumerate(self._narrow(x)):
            self.coefficients[i] = max(0.0, self.coefficients[i] + PRIOR[i] * gain * error)
        self.observed = True
        (_, a, b, c), (_, _, e, f), (_, _, _, g), _ = self._u
        d = self._d
        # The trace of U·diag(d)·Uᵀ.
        spread = d[0] + (a * a + 1.0) * d[1] + (b * b + e * e + 1.0) * d[2] + (c * c + f * f + g * g + 1.0) * d[3]
        if not math.isfinite(spread + sum(self.coefficients)):
            self._forget()
        elif spread < MAX_SPREAD**2:
            self._d = [each / FORGETTING for each in d]

    def _narrow(self, x: list[float]) -> list[float]:
        """The gain of an observation, by which the covariance becomes narrower (Bierman 1977: it stays positive)."""
        u, d = self._u, self._d
        (_, a, b, c), (_, _, e, g), (_, _, _, h), _ = u
        f = (x[0], a * x[0] + x[1], b * x[0] + e * x[1] + x[2], c * x[0] + g * x[1] + h * x[2] + x[3])
        gain, alpha = [0.0] * 4, FORGETTING
        for j in range(4):
            before, v = alpha, d[j] * f[j]
            alpha += v * f[j]
            d[j] *= before / alpha
            for i in range(j):
                old = u[i][j]
                u[i][j] = old - f[j] / before * gain[i]
                gain[i] += old * v
            gain[j] = v
        return [each / alpha for each in gain]
