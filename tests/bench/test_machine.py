import itertools

import pytest

from penstock.bench import machine
from penstock.bench.json_form import from_json, to_json
from penstock.core import ConfigError


def test_limits_are_those_of_one_thread_and_of_all_with_their_spread():
    found = machine.measure_machine(threads=2, isa="scalar", quick=True)
    assert (found.tier, found.threads, found.quick) == ("scalar", 2, True)
    kinds = [(one.what, one.threads, one.streams) for one in found.limits]
    reads = [("read", threads, streams) for threads in (1, 2) for streams in (1, 2, 4, 8)]
    assert sorted(kinds) == sorted([*reads, *(("dot", t, 0) for t in (1, 2)), *(("fma", t, 0) for t in (1, 2))])
    for one in found.limits:
        assert 0 < one.rate.low <= one.rate.value <= one.rate.high and one.rate.count == machine.QUICK_REPEATS
    assert found.bandwidth == 1e9 * max(o.rate.value for o in found.limits if o.what == "read" and o.threads == 2)
    assert found.peak("dot") == 1e9 * next(o.rate.value for o in found.limits if (o.what, o.threads) == ("dot", 2))
    assert from_json(machine.MachineLimits, to_json(found), "x") == found


def test_a_rate_is_what_is_read_over_the_clock():
    ticks = itertools.count(step=0.5)  # every call takes half a second
    found = machine.measure_machine(threads=1, isa="scalar", quick=True, clock=lambda: next(ticks))
    reads = [one.rate.value for one in found.limits if one.what == "read"]
    assert reads == [machine.MIN_BUFFER_BYTES / 0.5 / 1e9] * 4
    assert len(found.limits) == 6  # one thread is measured once
    assert found.limits[0].name == "read, 1 thread, 1 stream a thread"


def test_memory_that_is_short_is_left_alone_or_refused():
    assert machine.buffer_bytes(1 << 40, quick=False) == machine.BUFFER_BYTES
    assert machine.buffer_bytes(1 << 30, quick=False) == 1 << 28
    with pytest.raises(ConfigError, match="bytes of memory are free"):
        machine.buffer_bytes(1 << 27, quick=False)
    with pytest.raises(ConfigError, match="amx9"):
        machine.measure_machine(isa="amx9", quick=True)
