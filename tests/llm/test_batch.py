"""Batches in a thread of their own: interrupts, failures, and a real Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time

import pytest

from penstock.llm.batch import blocking, gather


def test_the_result_comes_back_and_so_does_an_error() -> None:
    async def seven() -> int:
        return 7

    async def fail() -> int:
        raise LookupError("gone")

    assert blocking(seven) == 7
    with pytest.raises(LookupError, match="gone"):
        blocking(fail)


def test_the_first_failure_cancels_the_rest_and_is_what_is_raised() -> None:
    ended: list[str] = []

    async def forever() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        return 0

    async def fail() -> int:
        await asyncio.sleep(0)
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        blocking(lambda: gather([forever(), fail(), forever()], False))
    assert ended == ["cancelled", "cancelled"]


def test_results_keep_their_order() -> None:
    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    assert blocking(lambda: gather([after(n) for n in (5, 1, 3)], False)) == [5, 1, 3]


def test_an_interrupt_of_the_waiting_thread_ends_the_work_first() -> None:
    ended: list[str] = []

    async def forever() -> None:
        threading.Timer(0.05, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)).start()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    with pytest.raises(KeyboardInterrupt):
        blocking(forever)
    assert ended == ["cancelled"]


INTERRUPTED = """
import sys
from penstock import LLM, SamplingParams
many = SamplingParams(max_tokens=400, ignore_eos=True)
with LLM() as llm:
    try:
        print("started", flush=True)
        llm.generate(["The sea"] * 4000, many)
    except KeyboardInterrupt:
        left = llm.generate("The", SamplingParams(max_tokens=3, ignore_eos=True))[0]
        state = llm.loaded.client.snapshot()
        print(len(left.tokens), state.num_running, state.num_waiting, state.pages_held)
"""


def test_ctrl_c_in_a_batch_leaves_the_model_usable_and_nothing_running() -> None:
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "3 0 0 0\n"
        assert process.wait(30) == 0
