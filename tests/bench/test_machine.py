import itertools
from dataclasses import replace

import numpy as np
import pytest

from penstock import _native
from penstock.backend.cpu import make_pool
from penstock.bench import machine
from penstock.bench.gpu import GpuLimits
from penstock.bench.json_form import from_json, to_json
from penstock.bench.stats import Estimate
from penstock.bench.tables import machine_table
from penstock.core import ConfigError


def test_limits_are_those_of_one_thread_and_of_all_with_their_spread():
    found = machine.measure_machine(threads=2, isa="scalar", quick=True)
    assert (found.tier, found.threads, found.quick) == ("scalar", 2, True)
    kinds = [(one.what, one.threads, one.streams, one.prefetch) for one in found.limits]
    reads = [("read", threads, streams, False) for threads in (1, 2) for streams in (1, 2, 4, 8)]
    reads += [("read", threads, streams, True) for threads in (1, 2) for streams in (1, 4)]
    assert sorted(kinds) == sorted([*reads, *((what, t, 0, False) for what in ("dot", "fma") for t in (1, 2))])
    for one in found.limits:
        assert 0 < one.rate.low <= one.rate.value <= one.rate.high and one.rate.count == machine.QUICK_REPEATS
    assert found.bandwidth == 1e9 * max(o.rate.value for o in found.limits if o.what == "read" and o.threads == 2)
    assert found.peak("dot") == 1e9 * next(o.rate.value for o in found.limits if (o.what, o.threads) == ("dot", 2))
    assert from_json(machine.MachineLimits, to_json(found), "x") == found


def test_a_rate_is_what_is_read_over_the_clock():
    ticks = itertools.count(step=0.5)  # every call takes half a second
    found = machine.measure_machine(threads=1, isa="scalar", quick=True, clock=lambda: next(ticks))
    reads = [one.rate.value for one in found.limits if one.what == "read"]
    assert reads == [machine.MIN_BUFFER_BYTES / 0.5 / 1e9] * 6
    assert len(found.limits) == 8  # one thread is measured once
    assert found.limits[0].name == "read, 1 thread, 1 stream a thread"
    assert found.limits[5].name == "read, 1 thread, 4 streams a thread, prefetch"


@pytest.mark.parametrize("tier", _native.tiers())
@pytest.mark.parametrize("streams", [1, 2, 4, 8])
@pytest.mark.parametrize("prefetch", [False, True])
def test_every_word_is_read_once(tier: str, streams: int, prefetch: bool) -> None:
    data = np.zeros(1 << 20, np.uint8)
    words = data.view(np.int32)
    words[:] = np.arange(words.size) % 7
    pool, kernels = make_pool(2), _native.kernels(tier)
    assert _native.bench_bandwidth(pool, kernels, data, streams, prefetch) == words.sum()
    words[-1] += 1000  # the control: the last word counts
    assert _native.bench_bandwidth(pool, kernels, data, streams, prefetch) == words.sum()


def test_the_best_read_is_the_limit_with_prefetch_or_without() -> None:
    def limits(plain: float, prefetched: float) -> machine.MachineLimits:
        rates = ((plain, False), (prefetched, True))
        reads = [machine.Limit("read", 2, 4, Estimate(rate, rate, rate, 3), prefetch) for rate, prefetch in rates]
        return machine.MachineLimits("scalar", 2, 1, True, tuple(reads))

    assert limits(10.0, 12.0).bandwidth == 12e9
    assert limits(12.0, 10.0).bandwidth == 12e9


def test_memory_that_is_short_is_left_alone_or_refused():
    assert machine.buffer_bytes(1 << 40, quick=False) == machine.BUFFER_BYTES
    assert machine.buffer_bytes(1 << 30, quick=False) == 1 << 28
    with pytest.raises(ConfigError, match="bytes of memory are free"):
        machine.buffer_bytes(1 << 27, quick=False)
    with pytest.raises(ConfigError, match="amx9"):
        machine.measure_machine(isa="amx9", quick=True)


def test_a_gpu_is_shown_and_recorded_and_one_that_fails_is_said() -> None:
    bare = machine.measure_machine(threads=1, isa="scalar", quick=True)
    whole = replace(
        bare, gpus=(GpuLimits("G 1", Estimate(9.0, 8.0, 10.0, 3), Estimate(5.0, 4.0, 6.0, 3)),), unmeasured="no G 2"
    )
    assert from_json(machine.MachineLimits, to_json(whole), "x") == whole and machine.is_complete(whole)
    table = machine_table(whole)
    assert [row[0].split(",")[0] for row in table.rows[-2:]] == ["G 1", "G 1"] and table.note.endswith("no G 2")
    assert not machine.is_complete(replace(bare, gpus=(replace(whole.gpus[0], copy=Estimate(9.0, 0.0, 10.0, 3)),)))
