"""Time and memory of loading GGUF files of 0.6B and 3B shape: with a cold, a warm and no pack cache.

Every load is a fresh process whose memory is sampled from /proc: RssAnon is what it holds alone, RssFile what it has
mapped, VmHWM their highest sum. What the weights take of a load is timed apart: repacking them, or mapping what an
earlier load has repacked. The files' blocks are random bits under sane scales. Run it on an otherwise idle
machine; with --evict every file is dropped from the page cache first, so that it comes from the disk.

    python benchmarks/load.py --json benchmarks/records/load.json --page docs/models.md
    python benchmarks/load.py --quick
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from random_checkpoint import SHAPE, finish, gguf_writer, tensors, values
from record_tables import expect_tables, show
from records import ROOT, write_record

Figures = dict[str, float]

SAMPLE_S = 0.002
LIMIT_S = 600.0
SIZES: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 2048,
    },
    "0.6B": {},
    "3B": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
    },
}
KINDS = ("q8_0", "q4_0", "q4_k_m")
# Where a block's float16 scales stand, in bytes.
SCALES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,)}
CACHES = ("cold", "warm", "none")
WORKER = """
import json, sys, time
started = time.perf_counter()
from penstock.assemble import LoadOptions, load
from penstock.backend.cpu import backend
imported = time.perf_counter()
pack_all, spent = backend.pack_all, []
def timed(*arguments):
    begin = time.perf_counter()
    packed = pack_all(*arguments)
    spent.append(time.perf_counter() - begin)
    return packed
backend.pack_all = timed
loaded = load(LoadOptions(model=sys.argv[1], kv_bytes=64 * 2**20, pack_cache=sys.argv[2] == "cache"))
ready = time.perf_counter()
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps({"import_s": imported - started, "load_s": ready - imported, "pack_s": sum(spent),
                  "peak_bytes": int(status["VmHWM"].split()[0]) * 1024}), flush=True)
sys.stdin.readline()
loaded.close()
"""


def kind_of(name: str, mix: str, layers: int) -> GGMLQuantizationType:
    """A matrix's kind in a file of that mix; q4_k_m has more bits for embeddings and half the values and downs."""
    if mix != "q4_k_m":
        return GGMLQuantizationType[mix.upper()]
    if name.startswith("token_embd"):
        return GGMLQuantizationType.Q6_K
    layer = int(name.split(".")[1])
    wide = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    wide = wide and (".attn_v." in name or ".ffn_down." in name)
    return GGMLQuantizationType.Q6_K if wide else GGMLQuantizationType.Q4_K


def random_blocks(rng: np.random.Generator, shape: tuple[int, int], kind: GGMLQuantizationType) -> np.ndarray:
    """Blocks of random codes under small scales.  # [N, K / block · bytes] u8."""
    block, size = GGML_QUANT_SIZES[kind]
    data = np.frombuffer(rng.bytes(shape[0] * shape[1] // block * size), np.uint8).reshape(-1, size).copy()
    for at in SCALES[kind.name]:
        data[:, at : at + 2] = np.frombuffer(np.float16(1e-3).tobytes(), np.uint8)
    return data.reshape(shape[0], -1)


def model_file(size: str, mix: str) -> Path:
    """A file of that size and mix below build/bench, written once."""
    path = ROOT / "build/bench" / f"load-{size}-{mix}.gguf"
    if path.exists():
        return path
    config = SHAPE | SIZES[size]
    aside = path.with_suffix(".part")
    writer = gguf_writer(aside, config, use_temp_file=True)
    rng = np.random.default_rng(0)
    for _, name, shape in tensors(config):
        if len(shape) == 1:
            writer.add_tensor(name, values(rng, shape))
        else:
            kind = kind_of(name, mix, config["num_hidden_layers"])
            writer.add_tensor(name, random_blocks(rng, (shape[0], shape[1]), kind), raw_dtype=kind)
    finish(writer)
    aside.rename(path)
    return path


def memory(pid: int) -> dict[str, int]:
    """What /proc says of a process's memory, in bytes."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            found[name] = int(value.split()[0]) * 1024
    return found


def load_once(path: Path, cache_folder: str, cache: bool) -> Figures:
    """Seconds and peaks of one load in a fresh process."""
    command = [sys.executable, "-c", WORKER, str(path), "cache" if cache else "none"]
    environment = {**os.environ, "XDG_CACHE_HOME": cache_folder, "PYTHONPATH": str(ROOT / "src")}
    peaks: Figures = {"RssAnon": 0, "RssFile": 0}
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        over = threading.Event()

        def sample() -> None:
            while not over.wait(SAMPLE_S):
                for name, size in memory(child.pid).items():
                    peaks[name] = max(peaks[name], size)

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            assert child.stdout is not None
            line = child.stdout.readline()
            total = time.perf_counter() - started
            resident = sum(memory(child.pid).values())
        finally:
            over.set()
            sampler.join()
        if not line:
            raise SystemExit(f"{path} was not loaded.")
        child.communicate("\n", timeout=LIMIT_S)
    said = json.loads(line)
    said |= {"start_s": total, "resident_bytes": resident}
    return said | {"anonymous_bytes": peaks["RssAnon"], "mapped_bytes": peaks["RssFile"]}


def evict(path: Path) -> None:
    """Drops what the page cache holds of a file, or of every file below a folder."""
    for file in [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def measure(path: Path, cache: str, rounds: int, from_disk: bool) -> dict[str, Any]:
    """Medians of a few loads with that state of the pack cache, and what its file weighs."""
    runs, packed = [], 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            if cache == "warm":
                load_once(path, folder, True)
            if from_disk:
                evict(path)
                evict(Path(folder))
            runs.append(load_once(path, folder, cache != "none"))
            packed = sum(file.stat().st_size for file in Path(folder).rglob("*.packed"))
    found: dict[str, Any] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    size = path.stat().st_size
    found |= {"file_bytes": size, "packed_bytes": packed, "bytes_per_s": size / found["load_s"], "runs": runs}
    return found


def main() -> None:
    """Measures every size and mix with every state of the pack cache."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0.6B,3B")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--evict", action="store_true", help="load from the disk, not from the page cache")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one round: only whether it runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="page whose table of loading is written anew")
    arguments = parser.parse_args()
    expect_tables(arguments.page, "load")
    sizes = "tiny" if arguments.quick else arguments.sizes
    rounds = 1 if arguments.quick else arguments.rounds
    print(
        "| file | MB | pack cache | load s | GB/s | start s | own MB | mapped MB | peak MB |\n|---" + "|---" * 8 + "|"
    )
    record = {}
    for size in sizes.split(","):
        for kind in arguments.kinds.split(","):
            path = model_file(size, kind)
            for cache in CACHES:
                found = measure(path, cache, rounds, arguments.evict)
                record[f"{size} {kind} {cache}"] = found
                cells = [f"{size} {kind}", f"{found['file_bytes'] / 1e6:,.0f}", cache]
                cells += [f"{found['load_s']:.2f}", f"{found['bytes_per_s'] / 1e9:.2f}", f"{found['start_s']:.2f}"]
                cells += [f"{found[name] / 1e6:,.0f}" for name in ("anonymous_bytes", "mapped_bytes", "peak_bytes")]
                print(f"| {' | '.join(cells)} |", flush=True)
    show(write_record(arguments.json, "load", record, rounds=rounds, from_disk=arguments.evict), arguments.page)


if __name__ == "__main__":
    main()
