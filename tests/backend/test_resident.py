"""What a model keeps resident: its packed weights and its KV, and a tenth of the weights more at most."""

import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
LARGE = {"hidden": 1024, "ffn": 3072, "layers": 8, "vocab": 2048}
TINY = {"hidden": 128, "ffn": 128, "layers": 1, "vocab": 256}
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 64
WORKER = """
import json, sys
from pathlib import Path
from tests.backend.driver import Driver, await_pack_cache, make_backend
from penstock.model import open_checkpoint
path, cache, held = sys.argv[1:]
checkpoint = open_checkpoint(Path(path))
backend = make_backend(checkpoint.spec, checkpoint.weights, threads=2, kv_type="bf16", pack_cache=cache)
copy = Path(path).read_bytes() if held else b""
driver = Driver(backend)
driver.open(0, [1, 2, 3])
driver.prefill(0, [1, 2, 3], [])
await_pack_cache()
kv = 64 * sum(group.bytes_per_page for group in backend.kv_groups)
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
now, peak = (int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
print(json.dumps({"now": now, "peak": peak, "weights": backend.weight_bytes, "kv": kv}))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident pages are read from /proc")


def blocks(rng, shape, kind):
    """Random codes under small scales."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if kind == gguf.GGMLQuantizationType.BF16:
        return (rng.integers(0x3A00, 0x3C00, shape, dtype=np.uint16)).view(np.uint8).reshape(shape[0], -1)
    data = np.frombuffer(rng.bytes(shape[0] * shape[1] // block * size), np.uint8).reshape(-1, size).copy()
    data[:, :2] = np.frombuffer(np.float16(1e-3).tobytes(), np.uint8)
    return data.reshape(shape[0], -1)


def write(path, kind, hidden, ffn, layers, vocab):
    """A qwen3-shaped file of random weights without a tokenizer."""
    rng, writer = np.random.default_rng(0), gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(layers)
    writer.add_context_length(1024)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    width, narrow = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes = {"token_embd": (vocab, hidden), "output_norm": (hidden,)}
    for i in range(layers):
        shapes |= {f"blk.{i}.{name}": (hidden,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{i}.{name}": (HEAD_DIM,) for name in ("attn_q_norm", "attn_k_norm")}
        shapes |= {f"blk.{i}.attn_q": (width, hidden), f"blk.{i}.attn_output": (hidden, width)}
        shapes |= {f"blk.{i}.attn_k": (narrow, hidden), f"blk.{i}.attn_v": (narrow, hidden)}
        shapes |= {f"blk.{i}.ffn_{name}": (ffn, hidden) for name in ("gate", "up")}
        shapes[f"blk.{i}.ffn_down"] = (hidden, ffn)
    for name, shape in shapes.items():
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
        else:
            writer.add_tensor(f"{name}.weight", blocks(rng, shape, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load(path, cache="", held=""):
    """Resident bytes of a fresh process that has loaded a file and computed with all of it."""
    environment = {"PATH": "", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    command = [sys.executable, "-c", WORKER, str(path), str(cache), held]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resident")
    kinds = {"Q8_0": gguf.GGMLQuantizationType.Q8_0, "BF16": gguf.GGMLQuantizationType.BF16}
    yield {name: write(folder / f"{name}.gguf", kind, **LARGE) for name, kind in kinds.items()} | {
        "tiny": write(folder / "tiny.gguf", kinds["Q8_0"], **TINY)
    }
    for path in folder.iterdir():  # a few hundred MB
        path.unlink()


@pytest.fixture(scope="module")
def empty(files):
    """Resident bytes without a model worth mentioning."""
    return load(files["tiny"])["now"]


def over(found, empty, figure):
    """Bytes beyond the weights and KV, as a share of the weights."""
    return (found[figure] - empty - found["weights"] - found["kv"]) / found["weights"]


def test_weights_are_resident_once(files, empty, tmp_path):
    size = files["Q8_0"].stat().st_size
    for figure in [load(files["Q8_0"]), load(files["Q8_0"], tmp_path), load(files["Q8_0"], tmp_path)]:
        assert 0.98 * size < figure["weights"] < 1.03 * size
        assert figure["now"] - empty > 0.9 * figure["weights"]  # all of it was touched
        assert over(figure, empty, "now") < 0.1
        assert over(figure, empty, "peak") < 0.1
    assert len(list(tmp_path.glob("*.packed"))) == 1


def test_float_weights_are_resident_once(files, empty):
    found = load(files["BF16"])
    assert found["now"] - empty > 0.9 * found["weights"]
    assert over(found, empty, "now") < 0.1


def test_control_a_second_copy_is_seen(files, empty):
    assert over(load(files["Q8_0"], held="a copy"), empty, "now") > 0.9
