"""Kernels beside the machine's limits: bandwidth, integer and float peaks, and matrix products as shares of them.

    PYTHONPATH=src python benchmarks/kernels.py [--tier avx512] [--threads 2] [--json out.json] [--quick]

Run it on an idle machine. Each figure is a median with its quartiles. A product over few rows is set against the
bandwidth (its weights are larger than the caches together), over many rows against the peak of its instructions.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from records import write_record

from penstock import _native
from penstock.backend.cpu.packing import to_native
from penstock.formats import CODE_FORMATS, Layout, PackedMatrix, ScaleForm, Storage
from penstock.formats.packed import empty

ROWS = (1, 2, 4, 6, 8, 16, 32, 128, 512)
SHAPES = ((2048, 1024), (1024, 2048), (3072, 1024), (1024, 3072))  # Qwen3-0.6B


def timed(run, repeats):
    """(median, lower quartile, upper quartile) seconds of a call."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return middle, low, high


def rate(amount, seconds):
    """Amount per second in units of 1e9, with its spread."""
    middle, low, high = seconds
    return {"value": amount / middle / 1e9, "low": amount / high / 1e9, "high": amount / low / 1e9}


def machine_limits(pool, kernels, quick):
    data = np.ones((64 if quick else 1024) << 20, np.uint8)
    repeats = 3 if quick else 15
    limits = {}
    for streams in (1, 2, 4, 8):
        seconds = timed(lambda n=streams: _native.bench_bandwidth(pool, kernels, data, n), repeats)
        limits[f"read_{streams}_streams_gb_s"] = rate(data.size, seconds)
    count = 100_000 if quick else 10_000_000
    for what, name in (("dot", "dot_gop_s"), ("fma", "fma_gflop_s")):
        operations = _native.bench_peak(pool, kernels, what, count)
        seconds = timed(lambda w=what: _native.bench_peak(pool, kernels, w, count), repeats)
        limits[name] = rate(operations, seconds)
    return limits


def weights(kind, n, k, rng):
    """A matrix of random bytes under scales that are ordinary numbers."""
    if kind in ("F32", "BF16"):
        layout = Layout.F32 if kind == "F32" else Layout.BF16
        values = rng.standard_normal((n, k), dtype=np.float32)
        data = values if layout is Layout.F32 else (values.view(np.uint32) >> 16).astype(np.uint16)
        return PackedMatrix(layout, n, k, data.view(np.uint8).reshape(-1))
    packed = empty(CODE_FORMATS[Storage(kind)], n, k)
    packed.codes[:] = rng.integers(0, 256, packed.codes.size, dtype=np.uint8)
    if packed.scale_form is ScaleForm.E8M0:
        packed.scales[:] = 121
    else:
        packed.scales[:] = np.full(packed.scales.size // 2, 0.01, np.float16).view(np.uint8)
    for array in (packed.subscales, packed.mins):
        if array is not None:
            array[:] = 7
    return packed


def products(pool, kernels, kind, limits, quick):
    rng = np.random.default_rng(0)
    layers = 1 if quick else {"F32": 4, "BF16": 8}.get(kind, 16)
    packed = [weights(kind, n, k, rng) for _ in range(layers) for n, k in SHAPES]
    matrices = [to_native(p) for p in packed]
    num_bytes, macs = sum(p.num_bytes for p in packed), sum(p.n * p.k for p in packed)
    bandwidth = max(v["value"] for name, v in limits.items() if name.startswith("read_"))
    peak = limits["fma_gflop_s" if kind in ("F32", "BF16") else "dot_gop_s"]["value"]
    for rows in ROWS:
        buffers = [
            (m, rng.standard_normal((rows, m.k), dtype=np.float32), np.zeros((rows, m.n), np.float32)) for m in matrices
        ]

        def run(buffers=buffers):
            for m, x, y in buffers:
                _native.linear(pool, kernels, m, x, None, y)

        seconds = timed(run, 3 if quick else 7 if rows >= 128 else 15)
        read, done = rate(num_bytes, seconds), rate(2 * macs * rows, seconds)
        yield {
            "kind": kind,
            "rows": rows,
            "gb_s": read,
            "gop_s": done,
            "share_of_bandwidth": read["value"] / bandwidth,
            "share_of_peak": done["value"] / peak,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tier")
    parser.add_argument("--threads", type=int, default=_native.default_threads())
    parser.add_argument("--json")
    parser.add_argument("--quick", action="store_true", help="a check that it runs; the figures mean nothing")
    options = parser.parse_args()
    pool, kernels = _native.Pool(options.threads), _native.kernels(options.tier)
    record = {"tier": kernels.name, "threads": options.threads}
    record["limits"] = machine_limits(pool, kernels, options.quick)
    print(f"tier {kernels.name}, {options.threads} threads")
    for name, value in record["limits"].items():
        print(f"  {name:24} {value['value']:9.1f}  ({value['low']:.1f} to {value['high']:.1f})")
    print(f"  {'kind':6}{'rows':>5}{'GB/s':>9}{'of bandwidth':>14}{'Gop/s':>10}{'of peak':>9}")
    record["products"] = []
    for kind in ("F32", "BF16", *(storage.value for storage in CODE_FORMATS)):
        for row in products(pool, kernels, kind, record["limits"], options.quick):
            record["products"].append(row)
            share, peak = f"{row['share_of_bandwidth']:.0%}", f"{row['share_of_peak']:.0%}"
            print(
                f"  {kind:6}{row['rows']:5}{row['gb_s']['value']:9.1f}{share:>14}{row['gop_s']['value']:10.1f}{peak:>9}"
            )
    write_record(options.json, record, quick=options.quick)


if __name__ == "__main__":
    main()
