"""What this machine can do at most: sustained read bandwidth and arithmetic peaks, measured by the native library.

Knows nothing about models. Invariant: a limit is measured by the same kernels, tier and threads that the engine uses,
and every figure has its spread; shares of a limit are of figures from the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from penstock import _native
from penstock.backend.cpu import make_pool, read_machine
from penstock.bench import stats
from penstock.bench.gpu import GpuLimits, measure_gpus
from penstock.bench.stats import Estimate
from penstock.core import ConfigError

READ, DOT, FMA = "read", "dot", "fma"
UNITS = {READ: "GB/s", DOT: "Gop/s", FMA: "Gflop/s"}
READS = ((1, False), (2, False), (4, False), (8, False), (1, True), (4, True))  # streams a thread, software prefetch
BUFFER_BYTES = 1 << 30  # far beyond every cache
MIN_BUFFER_BYTES = 1 << 26
SHARE_OF_FREE = 4  # at most a quarter of the memory that can be taken
PEAK_COUNT = 10_000_000
QUICK_COUNT = 100_000
REPEATS = 15
QUICK_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of the machine.

    Attributes:
        what: "read" (bytes), "dot" (integer multiply-adds, two operations each) or "fma" (the same of f32).
        threads: that ran at once.
        streams: that each thread read side by side; 0 where none are read.
        rate: in units of 1e9 a second: the median with its interval.
        prefetch: whether software asked for what it would read next.
    """

    what: str
    threads: int
    streams: int
    rate: Estimate
    prefetch: bool = False

    @property
    def name(self) -> str:
        """For people: what, with how many threads and streams."""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        streams = f", {self.streams} stream{'s' * (self.streams > 1)} a thread" if self.streams else ""
        prefetch = ", prefetch" * self.prefetch
        return f"{ {READ: 'read', DOT: 'int8 dot', FMA: 'f32 FMA'}[self.what] }, {threads}{streams}{prefetch}".strip()


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """The limits of one tier and number of threads, and of one thread alone.

    Attributes:
        tier: compute tier.
        threads: all that are used.
        buffer_bytes: what a bandwidth was read from.
        quick: the figures mean nothing: a check that it runs.
        limits: each.
        gpus: the limits of each GPU that PyTorch sees.
        unmeasured: why a GPU's are missing, where that is a fault.
    """

    tier: str
    threads: int
    buffer_bytes: int
    quick: bool
    limits: tuple[Limit, ...]
    gpus: tuple[GpuLimits, ...] = ()
    unmeasured: str = ""

    @property
    def bandwidth(self) -> float:
        """Bytes a second that all threads read at best, over the numbers of streams, with prefetch or without."""
        return 1e9 * max(one.rate.value for one in self.limits if one.what == READ and one.threads == self.threads)

    def peak(self, what: str) -> float:
        """Operations a second of all threads: DOT or FMA."""
        return 1e9 * next(one.rate.value for one in self.limits if one.what == what and one.threads == self.threads)


def is_complete(machine: MachineLimits) -> bool:
    """Whether limits that were read from somewhere have all figures that shares are taken of, known and positive."""
    whole = {(one.what, one.threads) for one in machine.limits}
    rates = [one.rate for one in machine.limits] + [rate for gpu in machine.gpus for rate in (gpu.copy, gpu.matmul)]
    return (
        {(what, machine.threads) for what in UNITS} <= whole
        and all(one.what in UNITS for one in machine.limits)
        and all(0 < rate.low <= rate.value <= rate.high for rate in rates)
    )


def measure_machine(
    threads: int | None = None,
    isa: str | None = None,
    quick: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> MachineLimits:
    """The limits of one thread and of all, about half a minute; the machine should be idle otherwise.

    Args:
        threads: all; None takes the cores that this process may use.
        isa: compute tier at most; None takes the best.
        quick: a check that it runs.
        clock: seconds.

    Raises:
        ConfigError: the machine has no such tier, or not the memory.
    """
    pool = make_pool(threads)
    kernels = open_tier(isa)
    data = np.ones(buffer_bytes(read_machine().available_bytes, quick), np.uint8)
    limits: list[Limit] = []
    pools = [pool] if pool.threads == 1 else [make_pool(1), pool]
    repeats, count = (QUICK_REPEATS, QUICK_COUNT) if quick else (REPEATS, PEAK_COUNT)
    for one in pools:
        for streams, prefetch in READS:
            read = partial(_native.bench_bandwidth, one, kernels, data, streams, prefetch)
            seconds = seconds_of(read, repeats, clock)
            limits.append(Limit(READ, one.threads, streams, seconds.per(data.size / 1e9), prefetch))
        for what in (DOT, FMA):
            done = _native.bench_peak(one, kernels, what, count)
            seconds = seconds_of(partial(_native.bench_peak, one, kernels, what, count), repeats, clock)
            limits.append(Limit(what, one.threads, 0, seconds.per(done / 1e9)))
    gpus, unmeasured = measure_gpus(quick)
    return MachineLimits(str(kernels.name), pool.threads, int(data.size), quick, tuple(limits), gpus, unmeasured)


def open_tier(isa: str | None) -> _native.Kernels:
    """The kernels of a tier.

    Raises:
        ConfigError: the machine has no such tier.
    """
    try:
        return _native.kernels(isa)
    except ValueError as error:
        raise ConfigError(str(error), param="isa") from error


def buffer_bytes(available_bytes: int, quick: bool) -> int:
    """How much is read: a gigabyte, or less where memory is short.

    Raises:
        ConfigError: what may be taken is too little to tell memory from caches.
    """
    if quick:
        return MIN_BUFFER_BYTES
    allowed = min(BUFFER_BYTES, available_bytes // SHARE_OF_FREE)
    if allowed < MIN_BUFFER_BYTES:
        raise ConfigError(
            f"{available_bytes:,} bytes of memory are free; bandwidth needs {SHARE_OF_FREE * MIN_BUFFER_BYTES:,}.",
            hint="end other programs.",
        )
    return allowed


def seconds_of(run: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> Estimate:
    """Median seconds of a call with its interval, after one that doesn't count."""
    run()
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return stats.median(times)
