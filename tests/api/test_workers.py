"""Two lanes: large work never holds up small work, and steps back behind what computes."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import pytest

from penstock.api.workers import LARGE_BYTES, Workers


def test_small_work_passes_large_work():
    workers = Workers(1, 1)
    gate = threading.Event()

    async def both():
        large = asyncio.ensure_future(workers.run(lambda: gate.wait(10), LARGE_BYTES))
        second = asyncio.ensure_future(workers.run(lambda: "second", LARGE_BYTES))
        assert await asyncio.wait_for(workers.run(lambda: "small", LARGE_BYTES - 1), 5) == "small"
        assert not large.done() and not second.done()
        gate.set()
        return await large, await second

    assert asyncio.run(both()) == (True, "second")
    workers.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of single threads")
def test_only_the_large_lane_steps_back():
    workers = Workers(1, 1)

    def nice():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def both():
        return await workers.run(nice, 0), await workers.run(nice, LARGE_BYTES)

    quick, slow = asyncio.run(both())
    workers.close()
    assert quick == os.getpriority(os.PRIO_PROCESS, os.getpid())
    assert slow == min(quick + 3, 19)


def test_a_failure_comes_back_to_who_asked():
    workers = Workers(1, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(workers.run(lambda: 1 // 0, 0))
    workers.close()
