"""Time that passes only when somebody says so.

Knows nothing about steps. Invariant: it never goes back.
"""

from __future__ import annotations


class VirtualClock:
    """Seconds of a simulation (implements core.ports.Clock)."""

    __slots__ = ("_now",)

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def now(self) -> float:
        """Seconds of simulated time."""
        return self._now

    def advance_to(self, time_s: float) -> None:
        """Moves forward to `time_s`; an earlier time changes nothing."""
        self._now = max(self._now, time_s)
