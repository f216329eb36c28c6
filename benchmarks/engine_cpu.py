"""Prefill, decode and mixed steps of the CPU backend on a 0.6B shape, beside the machine's limits of the same run.

    PYTHONPATH=src python benchmarks/engine_cpu.py [--kinds F32,BF16,Q8_0,Q4_0] [--json out.json] [--quick]

Run it on an idle machine. Weights are random and made in memory, so that every storage kind is measured without a
download; the steps are those of `penstock bench engine`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from records import save

from penstock.backend.cpu import make_pool
from penstock.bench import EnginePlan, Record, markdown, measure_machine, read_origin, steps_table
from penstock.bench.engine import measure_engine
from penstock.core import SamplingParams
from penstock.formats import BLOCKS, RawTensor, Storage, num_bytes
from penstock.model import Attention, Checkpoint, DecoderSpec, Layer, Mlp, QkNorm, Rope, WeightMap, WeightRef, places

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT.parent / "shared/data/model_configs/Qwen--Qwen3-0.6B.json"
PLAN = EnginePlan(streams=(1, 4, 8, 16, 32), kv_type="bf16")
QUICK = EnginePlan(streams=(1, 2), depths=(64,), prompts=(64,), mixed_prompt=32, steps=3, repeats=3, kv_type="bf16")
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
    for name, shape in places(spec).items():
        if len(shape) == 1:
            raw = RawTensor(name, Storage.F32, shape, np.ones(shape, np.float32).view(np.uint8))
        else:
            raw = RawTensor(name, storage, shape, np.resize(stretch, num_bytes(storage, shape)))
        refs[name] = WeightRef(raw)
    return WeightMap(refs, "", (), 0)


def random_checkpoint(spec, storage):
    weights = random_weights(spec, storage)
    stored = sum(ref.tensor.data.nbytes for ref in weights.tensors.values())
    return Checkpoint("0.6B", spec, weights, None, None, (), None, SamplingParams(), ((storage.value, stored),))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default="F32,BF16,Q8_0,Q4_0")
    parser.add_argument("--tier")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", help="file that takes the record")
    parser.add_argument("--quick", action="store_true", help="two layers, few steps: a check that it runs")
    options = parser.parse_args()
    machine = measure_machine(options.threads, options.tier, options.quick)
    pool, spec, plan = make_pool(machine.threads), qwen3_spec(options.quick), QUICK if options.quick else PLAN
    steps = []
    for kind in options.kinds.split(","):
        steps.extend(measure_engine(random_checkpoint(spec, Storage(kind)), "0.6B", plan, machine, pool))
    print(markdown(steps_table(steps, machine)))
    configuration = {"plan": asdict(plan), "quick": options.quick}
    save(options.json, Record("engine", "engine_cpu", read_origin(machine), configuration, steps=tuple(steps)))


if __name__ == "__main__":
    main()
