"""Kernels beside the machine's limits: bandwidth, integer and float peaks, products as shares of them, and sampling.

    PYTHONPATH=src python benchmarks/kernels.py [--tier avx512] [--threads 2] [--json out.json]
        [--page docs/speed.md] [--quick]

Run it on an idle machine. Each figure is a median with its 95 % interval. A product over few rows is set against the
bandwidth (its weights are larger than the caches together), over many rows against the peak of its instructions.
Sampling is timed over logits that lie in memory, and together with the vocabulary pass that makes them.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
from record_tables import expect_tables, show
from records import write_record

from penstock import _native
from penstock.backend.cpu import make_pool
from penstock.backend.cpu.packing import to_native
from penstock.bench import machine_table, markdown, measure_machine
from penstock.bench.machine import DOT, FMA, seconds_of
from penstock.formats import CODE_FORMATS, CodeFormat, Layout, PackedMatrix, ScaleForm, Storage
from penstock.formats.packed import empty

ROWS = (1, 2, 4, 6, 8, 16, 32, 128, 512)
SHAPES = ((2048, 1024), (1024, 2048), (3072, 1024), (1024, 3072))  # Qwen3-0.6B
VOCAB, HIDDEN, SAMPLED_ROWS, HISTORY_TOKENS = 151_936, 1024, 64, 512
PER_CHANNEL = "INT8"  # one scale a channel
SAMPLINGS = {
    "greedy": {"temperature": 0.0},
    "greedy, 5 logprobs": {"temperature": 0.0, "logprobs": 5},
    "top-k 40": {"top_k": 40},
    "top-k 64": {"top_k": 64},
    "top-k 50, top-p 0.9": {"top_k": 50, "top_p": 0.9},
    "top-k 50, penalties": {"top_k": 50, "repetition": 1.1, "frequency": 0.2},
    "unfiltered": {},
    "unfiltered, penalties": {"repetition": 1.1, "frequency": 0.2},
    "min-p 0.05": {"min_p": 0.05},
    "top-p 0.9": {"top_p": 0.9},
}


def weights(kind, n, k, rng):
    """A matrix of random bytes under scales that are ordinary numbers."""
    if kind in ("F32", "BF16"):
        layout = Layout.F32 if kind == "F32" else Layout.BF16
        values = rng.standard_normal((n, k), dtype=np.float32)
        data = values if layout is Layout.F32 else (values.view(np.uint32) >> 16).astype(np.uint16)
        return PackedMatrix(layout, n, k, data.view(np.uint8).reshape(-1))
    form = CodeFormat(8, k, 0, 128, mins=False) if kind == PER_CHANNEL else CODE_FORMATS[Storage(kind)]
    packed = empty(form, n, k)
    packed.codes[:] = rng.integers(0, 256, packed.codes.size, dtype=np.uint8)
    if packed.scale_form is ScaleForm.E8M0:
        packed.scales[:] = 121
    else:
        packed.scales[:] = np.full(packed.scales.size // 2, 0.01, np.float16).view(np.uint8)
    for array in (packed.subscales, packed.mins):
        if array is not None:
            array[:] = 7
    return packed


def products(pool, kernels, kind, machine, quick):
    rng = np.random.default_rng(0)
    layers = 1 if quick else {"F32": 4, "BF16": 8}.get(kind, 16)
    packed = [weights(kind, n, k, rng) for _ in range(layers) for n, k in SHAPES]
    matrices = [to_native(p) for p in packed]
    num_bytes, macs = sum(p.num_bytes for p in packed), sum(p.n * p.k for p in packed)
    peak = machine.peak(FMA if kind in ("F32", "BF16") else DOT)
    for rows in ROWS:
        buffers = [
            (m, rng.standard_normal((rows, m.k), dtype=np.float32), np.zeros((rows, m.n), np.float32)) for m in matrices
        ]

        def run(buffers=buffers):
            for m, x, y in buffers:
                _native.linear(pool, kernels, m, x, None, y)

        seconds = seconds_of(run, 3 if quick else 7 if rows >= 128 else 15)
        read, done = seconds.per(num_bytes / 1e9), seconds.per(2e-9 * macs * rows)
        yield {
            "kind": kind,
            "rows": rows,
            "gb_s": asdict(read),
            "gop_s": asdict(done),
            "share_of_bandwidth": read.value * 1e9 / machine.bandwidth,
            "share_of_peak": done.value * 1e9 / peak,
        }


def sample_rows(fields, rows, rng):
    """Sequences of those parameters, each with a history of its own."""
    out = []
    for index in range(rows):
        sampling = _native.Sampling()
        for name, value in ({"seed": 7, "sample": index} | fields).items():
            setattr(sampling, name, value)
        tokens = [int(token) for token in rng.integers(0, VOCAB, HISTORY_TOKENS)]
        out.append(_native.SampleRow(sampling, tokens, HISTORY_TOKENS // 2))
    return out


def samplings(pool, kernels, quick):
    """Seconds of sampling alone and after its vocabulary pass; first of the pass alone, without outlines and with."""
    rng = np.random.default_rng(1)
    num_rows = 4 if quick else SAMPLED_ROWS
    head = to_native(weights("Q8_0", VOCAB, HIDDEN, rng))
    x = rng.standard_normal((num_rows, HIDDEN), dtype=np.float32) * np.float32(
        0.17
    )  # logits with a deviation of 4 or so
    logits = np.zeros((num_rows, VOCAB), np.float32)
    maxima = np.zeros((num_rows, -(-VOCAB // 32)), np.float32)

    def vocabulary_pass():
        _native.head_rows(pool, kernels, head, x, logits, maxima)

    def entry(kind, run):
        return {"kind": kind, "rows": num_rows, "seconds": asdict(seconds_of(run, 3 if quick else 15))}

    yield entry("head", lambda: _native.linear(pool, kernels, head, x, None, logits))
    yield entry("head, outlined", vocabulary_pass)
    for kind, fields in SAMPLINGS.items():
        rows = sample_rows(fields, num_rows, rng)

        def sample(rows=rows):
            _native.sample_rows(pool, kernels, logits, maxima, rows, HISTORY_TOKENS)

        def both(sample=sample):
            vocabulary_pass()
            sample()

        yield entry(kind, sample)
        yield entry(f"head, {kind}", both)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tier")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json")
    parser.add_argument("--page", type=Path, help="page whose tables of products and sampling are written anew")
    parser.add_argument("--quick", action="store_true", help="a check that it runs; the figures mean nothing")
    options = parser.parse_args()
    expect_tables(options.page, "kernels")
    machine = measure_machine(options.threads, options.tier, options.quick)
    pool, kernels = make_pool(machine.threads), _native.kernels(options.tier)
    print(markdown(machine_table(machine)))
    record = {"products": [], "sampling": []}
    print(f"  {'kind':6}{'rows':>5}{'GB/s':>9}{'of bandwidth':>14}{'Gop/s':>10}{'of peak':>9}")
    for kind in ("F32", "BF16", PER_CHANNEL, *(storage.value for storage in CODE_FORMATS)):
        for row in products(pool, kernels, kind, machine, options.quick):
            record["products"].append(row)
            share, peak = f"{row['share_of_bandwidth']:.0%}", f"{row['share_of_peak']:.0%}"
            print(
                f"  {kind:6}{row['rows']:5}{row['gb_s']['value']:9.1f}{share:>14}{row['gop_s']['value']:10.1f}{peak:>9}"
            )
    print(f"  {'sampling':32}{'rows':>5}{'ms':>9}")
    for row in samplings(pool, kernels, options.quick):
        record["sampling"].append(row)
        print(f"  {row['kind']:32}{row['rows']:5}{1e3 * row['seconds']['value']:9.2f}")
    show(write_record(options.json, "kernels", record, machine, quick=options.quick), options.page)


if __name__ == "__main__":
    main()
