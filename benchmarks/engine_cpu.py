"""Prefill and decode speed of the CPU backend on a 0.6B shape, beside the machine's limits measured in the same run.

    PYTHONPATH=src python benchmarks/engine_cpu.py [--kinds F32,BF16,Q8_0,Q4_0] [--json out.json] [--quick]

Run it on an idle machine. Weights are random and made in memory; what is timed is plans through `CpuBackend`, sampling
included: prefill of one prompt, and decode steps of 1, 4 and 16 sequences. Figures are medians with quartiles. A decode
step is set against the bandwidth (bytes of weights and KV that it must read), a prefill against the peak.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from kernels import machine_limits
from records import write_record

from penstock import _native
from penstock.backend.cpu import CpuBackend, CpuOptions, read_machine
from penstock.core import SAMPLE, Opened, Row, SamplingParams, StepPlan
from penstock.formats import BLOCKS, RawTensor, Storage, num_bytes
from penstock.model import Attention, DecoderSpec, Layer, Mlp, Rope, WeightMap, WeightRef

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT.parent / "shared/data/model_configs/Qwen--Qwen3-0.6B.json"
PAGE_TOKENS, PROMPT, SEQUENCES = 32, 512, (1, 4, 16)
SCALES = {Storage.Q8_0: 3e-4, Storage.Q4_0: 5e-3}


def qwen3_spec(quick):
    config = json.loads(CONFIG.read_text())
    head = config["head_dim"]
    attention = Attention(
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=head,
        scale=head**-0.5,
        rope=Rope(theta=config["rope_theta"], dims=head),
        qk_norm=True,
    )
    layer = Layer(attention, Mlp(config["intermediate_size"]))
    return DecoderSpec(
        family="qwen3",
        hidden=config["hidden_size"],
        vocab=config["vocab_size"],
        layers=(layer,) * (2 if quick else config["num_hidden_layers"]),
        norm_eps=config["rms_norm_eps"],
        max_tokens=config["max_position_embeddings"],
        tied_head=True,
    )


def shapes(spec):
    att, hidden, ffn = spec.layers[0].attention, spec.hidden, spec.layers[0].mlp.intermediate
    q, kv = att.num_heads * att.head_dim, att.num_kv_heads * att.head_dim
    yield "embed", (spec.vocab, hidden)
    yield "final_norm", (hidden,)
    for i in range(len(spec.layers)):
        for name, shape in (
            ("q", (q, hidden)),
            ("k", (kv, hidden)),
            ("v", (kv, hidden)),
            ("o", (hidden, q)),
            ("gate", (ffn, hidden)),
            ("up", (ffn, hidden)),
            ("down", (hidden, ffn)),
            ("attn_norm", (hidden,)),
            ("mlp_norm", (hidden,)),
            ("q_norm", (att.head_dim,)),
            ("k_norm", (att.head_dim,)),
        ):
            yield f"layers.{i}.{name}", shape


def stored_values(storage, count, rng):
    """Bytes of `count` random weights of an ordinary size."""
    if storage in SCALES:
        blocks = rng.integers(0, 256, (count // 32, BLOCKS[storage].bytes), dtype=np.uint8)
        blocks[:, :2] = np.full((len(blocks), 1), SCALES[storage], np.float16).view(np.uint8)
        return blocks.reshape(-1)
    values = rng.standard_normal(count, np.float32) * np.float32(0.03)
    if storage is Storage.F32:
        return values.view(np.uint8)
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)


def random_weights(spec, storage):
    """A weight map whose matrices repeat one random stretch, each in memory of its own."""
    stretch = stored_values(storage, 1 << 20, np.random.default_rng(0))
    refs = {}
    for name, shape in shapes(spec):
        if len(shape) == 1:
            raw = RawTensor(name, Storage.F32, shape, np.ones(shape, np.float32).view(np.uint8))
        else:
            raw = RawTensor(name, storage, shape, np.resize(stretch, num_bytes(storage, shape)))
        refs[name] = WeightRef(raw)
    return WeightMap(refs, "", (), 0)


class Bench:
    """One backend and its plans; every sequence has its own pages."""

    def __init__(self, spec, storage, options):
        limit = PROMPT + options.steps + PAGE_TOKENS
        self.pages_each = -(-limit // PAGE_TOKENS)
        cpu = CpuOptions(
            max_model_tokens=limit,
            max_running=max(SEQUENCES),
            max_step_tokens=PROMPT,
            page_tokens=PAGE_TOKENS,
            threads=options.threads,
            kv_type="bf16",
            isa=options.tier,
        )
        self.backend = CpuBackend(spec, random_weights(spec, storage), cpu)
        self.backend.allocate((self.pages_each * max(SEQUENCES),))
        self.prompt = tuple(int(t) for t in np.random.default_rng(1).integers(0, spec.vocab, PROMPT))
        self.number = 0

    def step(self, rows, opened=(), released=()):
        """(seconds, sampled tokens)."""
        plan = StepPlan(self.number, tuple(opened), tuple(rows), (), tuple(released))
        self.number += 1
        start = time.perf_counter()
        result = self.backend.finish(self.backend.submit(plan), None)
        seconds = time.perf_counter() - start
        return seconds, [row.tokens[0] for row in result.rows]

    def prefill(self, slot, release):
        pages = tuple(range(slot * self.pages_each, (slot + 1) * self.pages_each))
        greedy = SamplingParams(temperature=0.0)
        opened = Opened(slot, slot, 0, 0, self.prompt, PROMPT, greedy, (), None, None)
        row = Row(slot, 0, self.prompt, (pages,), 0, SAMPLE)
        return self.step([row], [opened], [slot] if release else [])

    def decode(self, count, steps):
        """Seconds of each step of `count` sequences that hold a prompt each."""
        tokens = [self.prefill(slot, release=False)[1][0] for slot in range(count)]
        times = []
        for i in range(steps):
            rows = [Row(s, PROMPT + i, (tokens[s],), ((),), 0, SAMPLE) for s in range(count)]
            seconds, tokens = self.step(rows)
            times.append(seconds)
        self.step([], released=range(count))
        return times


def spread(amount, times):
    """Amount a second: median, quartiles."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"value": amount / middle, "low": amount / high, "high": amount / low}


def measure(spec, storage, options, limits):
    bench = Bench(spec, storage, options)
    backend = bench.backend
    bandwidth = max(v["value"] for name, v in limits.items() if name.startswith("read_")) * 1e9
    peak = limits["fma_gflop_s" if storage in (Storage.F32, Storage.BF16) else "dot_gop_s"]["value"] * 1e9
    bench.prefill(0, release=False)
    times = [bench.prefill(0, release=True)[0] for _ in range(3 if options.quick else 7)]
    bench.step([], released=[0])
    rate = spread(PROMPT, times)
    macs = sum(shape[0] * shape[1] for name, shape in shapes(spec) if len(shape) == 2 and name != "embed")
    yield {
        "kind": storage.value,
        "what": "prefill",
        "sequences": 1,
        "tok_s": rate,
        "share": 2 * macs * rate["value"] / peak,
    }
    token_bytes = backend.kv_groups[0].bytes_per_page / PAGE_TOKENS
    for count in SEQUENCES:
        times = bench.decode(count, options.steps)[2:]
        rate = spread(count, times)
        read = backend.weight_bytes + count * token_bytes * (PROMPT + options.steps / 2)
        share = read * rate["value"] / count / bandwidth
        yield {"kind": storage.value, "what": "decode", "sequences": count, "tok_s": rate, "share": share}
    backend.close()


def table(record):
    """The record as Markdown."""
    limits = record["limits"]
    best = max(v["value"] for name, v in limits.items() if name.startswith("read_"))
    lines = [
        f"{record['cpu']}, tier {record['tier']}, {record['threads']} threads; read {best:.1f} GB/s, integer dot "
        f"{limits['dot_gop_s']['value']:.0f} Gop/s, float {limits['fma_gflop_s']['value']:.0f} Gflop/s",
        "",
        "| weights | what | sequences | tok/s (quartiles) | of the limit |",
        "|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        rate, of = row["tok_s"], "peak" if row["what"] == "prefill" else "bandwidth"
        lines.append(
            f"| {row['kind']} | {row['what']} | {row['sequences']} | {rate['value']:.1f} ({rate['low']:.1f} to "
            f"{rate['high']:.1f}) | {row['share']:.0%} of {of} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default="F32,BF16,Q8_0,Q4_0")
    parser.add_argument("--tier")
    parser.add_argument("--threads", type=int, default=_native.default_threads())
    parser.add_argument("--steps", type=int, default=24, help="decode steps timed for each number of sequences")
    parser.add_argument("--json", help="file that takes the record")
    parser.add_argument("--quick", action="store_true", help="two layers, few steps: a check that it runs")
    options = parser.parse_args()
    if options.quick:
        options.steps = 4
    pool, kernels = _native.Pool(options.threads), _native.kernels(options.tier)
    record = {
        "cpu": read_machine().cpu,
        "tier": kernels.name,
        "threads": options.threads,
        "limits": machine_limits(pool, kernels, options.quick),
        "rows": [],
    }
    spec = qwen3_spec(options.quick)
    for kind in options.kinds.split(","):
        record["rows"].extend(measure(spec, Storage(kind), options, record["limits"]))
    print(table(record))
    write_record(options.json, record, prompt_tokens=PROMPT, steps=options.steps, quick=options.quick, kv_type="bf16")


if __name__ == "__main__":
    main()
