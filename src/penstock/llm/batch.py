"""Runs many awaitables to their results, from blocking code too, with a progress bar.

Knows nothing about models. Invariant: when one fails, or the waiting thread is interrupted, the others have ended
before the exception is passed on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def blocking(make: Callable[[], Awaitable[T]]) -> T:
    """The awaitable's result, from a thread of its own: works inside a running loop (a notebook) too.

    An exception that reaches the waiting thread, KeyboardInterrupt above all, cancels the work and waits for its end.
    """
    begun = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def work() -> T:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        begun.set()
        return await make()

    with ThreadPoolExecutor(1, thread_name_prefix="penstock-llm") as pool:
        future = pool.submit(lambda: asyncio.run(work()))
        try:
            return future.result()
        except BaseException:
            if not future.done() and begun.wait(1.0):
                loop, task = running[0]
                with suppress(RuntimeError):  # the loop closed between the two lines
                    loop.call_soon_threadsafe(task.cancel)
            raise


async def gather(work: Sequence[Awaitable[T]], progress: bool) -> list[T]:
    """All results in order; the first failure cancels the rest."""
    columns = (TextColumn("generate"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress, transient=True) as bar:
        task = bar.add_task("generate", total=len(work))

        async def counted(one: Awaitable[T]) -> T:
            result = await one
            bar.advance(task)
            return result

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(counted(one)) for one in work]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
