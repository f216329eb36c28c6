"""Threads that prepare requests: a quick lane for small bodies, a slow one of low priority for large ones.

Knows nothing about requests. Invariant: a small request never waits behind a large one, and large ones together never
take more than their lane's threads from the threads that compute.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

# A body of this size is some 16,000 tokens: tens of milliseconds of work.
LARGE_BYTES: Final = 64 * 1024
# Half of what a thread gets beside another on a full core. Lower would be worse: a thread that the machine lets wait
# while it holds the interpreter's lock makes everybody wait.
_NICE_STEP: Final = 3


class Workers:
    """The two lanes.

    Args:
        quick: threads for small bodies.
        slow: threads for large ones.
    """

    def __init__(self, quick: int, slow: int) -> None:
        self._quick = ThreadPoolExecutor(quick, "penstock-api")
        self._slow = ThreadPoolExecutor(slow, "penstock-api-large", initializer=lower_priority)

    async def run(self, work: Callable[[], T], num_bytes: int) -> T:
        """The result of `work`, which handles `num_bytes` of a request."""
        lane = self._slow if num_bytes >= LARGE_BYTES else self._quick
        return await asyncio.get_running_loop().run_in_executor(lane, work)

    def close(self) -> None:
        """Takes no more work; what waits is dropped."""
        for lane in (self._quick, self._slow):
            lane.shutdown(wait=False, cancel_futures=True)


def lower_priority() -> None:
    """Lets this thread step back behind those that compute; only Linux has priorities of single threads."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICE_STEP)
