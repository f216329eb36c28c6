"""How long a step will take, learned from the steps so far.

Knows nothing about plans or clocks. Invariant: no coefficient is negative, so a bigger step is never predicted to be
shorter.

Recursive least squares with forgetting (Ljung, System Identification, 2nd ed., section 11.2), each step weighted by
the inverse of its duration so that relative errors count; negative coefficients are set to zero after each update, and
the covariance is kept from winding up where the traffic does not excite a feature.
"""

from __future__ import annotations

import math
from typing import NamedTuple

FORGETTING = 0.99
# Prior: 1 ms a step, 5 ms a prefill token, 200 µs a decode row, 20 ns a token of KV read. A prefill token too dear makes
# the first step short, one too cheap makes it many times too long; so it is that of a large model on a small processor.
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
    """

    def __init__(self) -> None:
        self.coefficients = list(PRIOR)
        # Covariance of the coefficients in units of their priors: all four are then of one size.
        self._p = _prior_spread()

    def predict(self, features: StepFeatures) -> float:
        """Seconds that such a step takes."""
        c = self.coefficients
        return c[0] + c[1] * features.prefill_tokens + c[2] * features.decode_rows + c[3] * features.kv_tokens

    def observe(self, features: StepFeatures, duration_s: float) -> None:
        """Learns from one step; durations that no clock can mean are left out."""
        if not MIN_DURATION_S <= duration_s <= MAX_DURATION_S:
            return
        x = [value * scale / duration_s for value, scale in zip((1, *features), PRIOR, strict=True)]
        p = self._p
        px = [sum(row[j] * x[j] for j in range(4)) for row in p]
        gain_base = FORGETTING + sum(x[i] * px[i] for i in range(4))
        if not FORGETTING / 2 <= gain_base < math.inf:
            self._p = _prior_spread()  # rounding has eaten the covariance, which must not be negative
            return
        error = 1.0 - self.predict(features) / duration_s
        for i, scale in enumerate(PRIOR):
            self.coefficients[i] = max(0.0, self.coefficients[i] + scale * px[i] / gain_base * error)
        for i in range(4):
            for j in range(4):
                p[i][j] -= px[i] * px[j] / gain_base
        if sum(p[i][i] for i in range(4)) < MAX_SPREAD**2:
            for row in p:
                for j in range(4):
                    row[j] /= FORGETTING


def _prior_spread() -> list[list[float]]:
    return [[PRIOR_SPREAD**2 if i == j else 0.0 for j in range(4)] for i in range(4)]
