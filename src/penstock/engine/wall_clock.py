"""The wall clock of a server: the only file of the control plane that may read real time.

Knows nothing about steps. Invariant: the scale is monotonic; it never jumps with the machine's date.
"""

from __future__ import annotations

import time
from datetime import datetime


class WallClock:
    """Seconds since an arbitrary start, monotonic (implements core.ports.Clock)."""

    __slots__ = ()

    def now(self) -> float:
        """Seconds on the machine's monotonic clock."""
        return time.monotonic()

    def date(self) -> datetime:
        """The local date and time, for chat templates that print it; never for measuring."""
        return datetime.now()
