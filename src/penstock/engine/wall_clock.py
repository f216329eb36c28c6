"""The wall clock of a server: the only file of the control plane that may read real time.

Knows nothing about steps. Invariant: the scale is monotonic; it never jumps with the machine's date.
"""

from __future__ import annotations

import time


class WallClock:
    """Seconds since an arbitrary start, monotonic (implements core.ports.Clock)."""

    __slots__ = ()

    def now(self) -> float:
        """Seconds on the machine's monotonic clock."""
        return time.monotonic()
