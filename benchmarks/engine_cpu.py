"""Prefill and decode steps of the CPU backend on a 0.6B shape, beside the machine's limits of the same run.

    python benchmarks/engine_cpu.py --json benchmarks/records/engine_cpu.json --page docs/speed.md
    python benchmarks/engine_cpu.py --tier avx2                 # a lower tier, held against the limits of that tier
    python benchmarks/engine_cpu.py --kinds F32,Q4_0+Q6_K       # other kinds; the one behind the + is the head's

Six minutes on two cores, which should be idle. Weights are random and made in memory, so that every storage kind is
measured without a download; the steps are those of `penstock bench engine`, at the streams and depths that matter most.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from pages import expect_table, fill
from random_checkpoint import SHAPE
from records import save

from penstock.backend.cpu import make_pool
from penstock.bench import EnginePlan, Record, StepFigure, markdown, measure_machine, read_origin, steps_table
from penstock.bench.engine import measure_engine
from penstock.core import SamplingParams
from penstock.formats import BLOCKS, RawTensor, Storage, num_bytes
from penstock.model import Attention, Checkpoint, DecoderSpec, Layer, Mlp, QkNorm, Rope, WeightMap, WeightRef, places

WIDE = EnginePlan(depths=(512,), prompts=(512,), mixed_prompt=0, steps=16, repeats=5, kv_type="bf16")
DEEP = EnginePlan((1,), depths=(2048,), prompts=(2048,), mixed_prompt=0, steps=16, repeats=3, kv_type="bf16")
INT8 = EnginePlan((1, 16), depths=(512, 2048), prompts=(512,), mixed_prompt=0, steps=16, repeats=3, kv_type="int8")
QUICK = EnginePlan(streams=(1, 2), depths=(64,), prompts=(64,), mixed_prompt=0, steps=3, repeats=3, kv_type="bf16")
INT8_KIND = "Q4_0"  # that is measured with an int8 KV, too
KINDS = "BF16,Q8_0,Q4_0,Q4_0+Q6_K"  # people's Q4_0 files have a Q6_K head
# Where a block's scale lies and how large it is, so that weights are of an ordinary size.
SCALES = {Storage.Q8_0: (0, 3e-4), Storage.Q4_0: (0, 5e-3), Storage.Q6_K: (208, 2.5e-5)}


def qwen3_spec(quick):
    config = SHAPE
    head = config["head_dim"]
    attention = Attention(
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=head,
        scale=head**-0.5,
        rope=Rope(theta=config["rope_theta"], dims=head),
        qk_norm=QkNorm.HEAD,
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


def stored_values(storage, count, rng):
    """Bytes of `count` random weights of an ordinary size."""
    if storage in SCALES:
        at, scale = SCALES[storage]
        blocks = rng.integers(0, 256, (count // BLOCKS[storage].block, BLOCKS[storage].bytes), dtype=np.uint8)
        blocks[:, at : at + 2] = np.full((len(blocks), 1), scale, np.float16).view(np.uint8)
        return blocks.reshape(-1)
    values = rng.standard_normal(count, np.float32) * np.float32(0.03)
    if storage is Storage.F32:
        return values.view(np.uint8)
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)


def random_weights(spec, storage, head):
    """A weight map whose matrices repeat one random stretch, each in memory of its own; the tied head may differ."""
    rng = np.random.default_rng(0)
    stretches = {kind: stored_values(kind, 1 << 20, rng) for kind in (storage, head)}
    refs = {}
    for name, shape in places(spec).items():
        if len(shape) == 1:
            raw = RawTensor(name, Storage.F32, shape, np.ones(shape, np.float32).view(np.uint8))
        else:
            kind = head if name == "embed" else storage
            raw = RawTensor(name, kind, shape, np.resize(stretches[kind], num_bytes(kind, shape)))
        refs[name] = WeightRef(raw)
    return WeightMap(refs, "", (), 0)


def random_checkpoint(spec, kind):
    """A checkpoint of one storage kind, or of "body+head"."""
    storage, head = (Storage(part) for part in (kind.split("+") * 2)[:2])
    weights = random_weights(spec, storage, head)
    stored = sum(ref.tensor.data.nbytes for ref in weights.tensors.values())
    named = storage.value if head is storage else f"{storage.value} with a {head.value} head"
    return Checkpoint("0.6B", spec, weights, None, None, (), None, SamplingParams(), ((named, stored),))


def plans_of(kind, options):
    """What is measured of a kind; of a head of its own only the first plan: prompts hardly see it."""
    if options.quick:
        plans = (QUICK, replace(QUICK, kv_type="int8")) if kind == INT8_KIND else (QUICK,)
    elif "+" in kind:
        plans = (WIDE,)
    else:
        plans = (WIDE, DEEP, INT8) if kind == INT8_KIND else (WIDE, DEEP)
    return [replace(plan, isa=options.tier) for plan in plans]


def measured(kinds, options):
    """(kind, limits just before, steps) of every kind.

    A machine's limits can halve within minutes, so each kind is held against those of its own time.
    """
    for kind in kinds:
        machine = measure_machine(options.threads, options.tier, options.quick)
        pool = make_pool(machine.threads)
        checkpoint = random_checkpoint(qwen3_spec(options.quick), kind)
        steps: list[StepFigure] = []
        for plan in plans_of(kind, options):
            steps += measure_engine(checkpoint, "0.6B", plan, machine, pool)
        yield kind, machine, steps


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=KINDS)
    parser.add_argument("--tier", help="compute tier at most, of the steps and of the limits: avx2, scalar")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", help="file that takes the record")
    parser.add_argument("--page", type=Path, help="page whose table of this tier is written anew")
    parser.add_argument("--quick", action="store_true", help="two layers, few steps: a check that it runs")
    options = parser.parse_args()
    table = f"engine {options.tier or 'best'}"
    expect_table(options.page, table)
    steps, machines, tables = [], {}, []
    kinds = options.kinds.split(",")
    for kind, machine, found in measured(kinds, options):
        steps += found
        machines[kind] = machine
        tables.append(markdown(replace(steps_table(found, machine), title=kind)).strip())
        print(tables[-1], flush=True)
    origin = read_origin(next(iter(machines.values())))
    if options.page is not None:
        fill(options.page, table, "\n\n".join(tables), origin)
    limits = {kind: asdict(machine)["limits"] for kind, machine in machines.items()}
    plans = {kind: [asdict(plan) for plan in plans_of(kind, options)] for kind in kinds}
    configuration = {"plans": plans, "quick": options.quick, "limits": limits}
    save(options.json, Record("engine", "engine_cpu", origin, configuration, steps=tuple(steps)))


if __name__ == "__main__":
    main()
