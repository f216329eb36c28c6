"""The GGUF reader against gguf-py's writer, and against files that lie."""

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.model.gguf_writing import make_model as make_zoo_model
from tests.model.gguf_writing import write as write_zoo

from penstock.core import ModelFileError, limits
from penstock.formats import Storage
from penstock.formats.gguf_blocks import dequantize
from penstock.model import open_checkpoint
from penstock.model.gguf_file import read_gguf


def small_file(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("a.text", "straße")
    writer.add_bool("a.flag", True)
    writer.add_float32("a.number", 0.5)
    writer.add_array("a.list", ["x", "yy", ""])
    writer.add_array("a.counts", [1, 2, 3])
    writer.add_tensor("w", np.arange(64, dtype=np.float32).reshape(2, 32))
    writer.add_tensor("v", np.arange(5, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = read_gguf(small_file(tmp_path / "a.gguf"))
    assert file.metadata["a.text"] == "straße" and file.metadata["a.flag"] is True
    assert file.metadata["a.number"] == 0.5 and file.metadata["a.list"] == ["x", "yy", ""]
    assert file.metadata["a.counts"] == [1, 2, 3]
    tensor = file.tensors.tensors["w"]
    assert (tensor.storage, tensor.shape) == (Storage.F32, (2, 32))
    assert np.array_equal(dequantize(tensor), np.arange(64, dtype=np.float32).reshape(2, 32))
    assert file.tensors.tensors["v"].storage is Storage.F16


def head(version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def key(name: bytes, kind: int, body: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + body


def info(name: bytes, dims: list[int], kind: int, offset: int) -> bytes:
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return struct.pack("<Q", len(name)) + name + shape + struct.pack("<IQ", kind, offset)


PAD = bytes(64)
LIES = {
    "empty": (b"", "empty"),
    "magic": (b"GGML" + PAD, "not a GGUF"),
    "version 1": (head(1) + PAD, "version 1"),
    "big-endian": (head(3 << 24) + PAD, "version"),
    "tensor count": (head(tensors=2**63) + PAD, "tensors"),
    "key count": (head(keys=2**40) + PAD, "keys"),
    "string length": (head(keys=1) + struct.pack("<Q", 2**60) + PAD, "at most"),
    "array count": (head(keys=1) + key(b"k", 9, struct.pack("<IQ", 4, 2**62)) + PAD, "bytes of memory"),
    "array after array": (
        head(keys=3)
        + b"".join(key(name, 9, struct.pack("<IQ", 0, 2**23) + bytes(2**23)) for name in (b"a", b"b", b"c"))
        + PAD,
        "bytes of memory",
    ),
    "array past end": (head(keys=1) + key(b"k", 9, struct.pack("<IQ", 12, 2**20)) + PAD, "left"),
    "strings past end": (head(keys=1) + key(b"k", 9, struct.pack("<IQ", 8, 2**20)) + PAD, "strings"),
    "nested array": (head(keys=1) + key(b"k", 9, struct.pack("<IQ", 9, 1)) + PAD, "nested"),
    "value type": (head(keys=1) + key(b"k", 99, b"") + PAD, "value type 99"),
    "twice": (head(keys=2) + 2 * key(b"k", 0, b"\1") + PAD, "twice"),
    "utf-8": (head(keys=1) + key(b"\xff", 0, b"\1") + PAD, "UTF-8"),
    "rank 0": (head(tensors=1) + info(b"w", [], 0, 0) + PAD, "0 dimensions"),
    "rank 5": (head(tensors=1) + info(b"w", [1] * 5, 0, 0) + PAD, "5 dimensions"),
    "overflow": (head(tensors=1) + info(b"w", [2**63, 2**63], 0, 0) + PAD, "truncated"),
    "wraps to small": (head(tensors=1) + info(b"w", [2**62, 4], 0, 0) + PAD, "truncated"),
    "offset past end": (head(tensors=1) + info(b"w", [4], 0, 2**40) + PAD, "truncated"),
    "misaligned": (head(tensors=1) + info(b"w", [4], 0, 4) + 4 * PAD, "alignment"),
    "partial block": (head(tensors=1) + info(b"w", [31], 8, 0) + PAD, "impossible"),
    "empty tensor": (head(tensors=1) + info(b"w", [0], 0, 0) + PAD, "impossible"),
    "unknown type": (head(tensors=1) + info(b"w", [32], 77, 0) + PAD, "unknown type 77"),
    "overlap": (head(tensors=2) + info(b"w", [32], 0, 0) + info(b"v", [8], 0, 32) + 8 * PAD, "overlaps"),
    "same name": (head(tensors=2) + info(b"w", [8], 0, 0) + info(b"w", [8], 0, 32) + 8 * PAD, "twice"),
    "alignment": (head(keys=1) + key(b"general.alignment", 4, struct.pack("<I", 48)) + PAD, "48"),
    "alignment 0": (head(keys=1) + key(b"general.alignment", 4, struct.pack("<I", 0)) + PAD, "alignment"),
}


@pytest.mark.parametrize("name", sorted(LIES))
def test_lies_are_refused_by_name(name: str, tmp_path: Path) -> None:
    data, words = LIES[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        read_gguf(path)
    assert words in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_control_the_same_layouts_without_the_lie_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    body = head(tensors=1, keys=1) + key(b"k", 9, struct.pack("<IQ", 4, 2)) + struct.pack("<II", 7, 8)
    path.write_bytes(body + info(b"w", [8], 0, 0) + bytes(128))
    file = read_gguf(path)
    assert file.metadata["k"] == [7, 8] and file.tensors.tensors["w"].shape == (8,)


@pytest.mark.parametrize(
    "body",
    [
        key(b"k", 9, struct.pack("<IQ", 8, 200_000)) + 200_000 * (struct.pack("<Q", 2) + "Ā".encode()),
        key(b"k", 9, struct.pack("<IQ", 8, 9000)) + 9000 * (struct.pack("<Q", 250) + 246 * b"a" + "😀".encode()),
        key(b"k", 9, struct.pack("<IQ", 8, 1000)) + 1000 * (struct.pack("<Q", 1000) + 996 * b"a" + "😀".encode()),
        key(b"k", 8, struct.pack("<Q", 500_004) + 500_000 * b"a" + "😀".encode()),
        key(b"k", 9, struct.pack("<IQ", 10, 300_000)) + 300_000 * struct.pack("<Q", 2**60),
        key(b"k", 9, struct.pack("<IQ", 6, 300_000)) + 300_000 * struct.pack("<f", 0.1),
        key(b"k", 9, struct.pack("<IQ", 0, 3_000_000)) + bytes(3_000_000),
    ],
    ids=["strings", "longer strings", "long strings", "a wide string", "integers", "numbers", "bytes"],
)
def test_arrays_take_no_memory_beyond_their_bound(body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 1 << 20
    monkeypatch.setattr(limits, "MAX_OVERHEAD_BYTES", bound)
    path = tmp_path / "a.gguf"
    path.write_bytes(head(keys=1) + body + PAD)
    assert_refused_within(path, bound, "bytes of memory")


def test_directories_take_no_memory_beyond_their_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 1 << 20
    monkeypatch.setattr(limits, "MAX_OVERHEAD_BYTES", bound)
    path = tmp_path / "a.gguf"
    path.write_bytes(head(tensors=4000) + b"".join(info(b"%d" % i, [1], 0, 32 * i) for i in range(4000)) + 4000 * PAD)
    assert_refused_within(path, bound, "4000 tensors would take")
    path.write_bytes(head(keys=9000) + b"".join(key(b"%d" % i, 7, b"\0") for i in range(9000)) + PAD)
    assert_refused_within(path, bound, "9000 keys would take")
    few = head(tensors=500) + b"".join(info(b"%d" % i, [1], 0, 32 * i) for i in range(500)) + 500 * PAD
    path.write_bytes(few)
    tracemalloc.start()
    file = read_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(file.tensors.tensors) == 500 and peak < bound + len(few)


def assert_refused_within(path: Path, bound: int, words: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=words):
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < bound + path.stat().st_size + 2**20  # a chunk of strings
    finally:
        tracemalloc.stop()


def test_what_is_charged_covers_what_is_taken(tmp_path: Path) -> None:
    """Control of the bounds: the largest vocabularies that are published stay far below them in files with weights."""
    tokens = 20_000
    body = key(b"k", 9, struct.pack("<IQ", 8, tokens)) + tokens * (struct.pack("<Q", 2) + "Ā".encode())
    path = tmp_path / "a.gguf"
    path.write_bytes(head(keys=1) + body + PAD)
    tracemalloc.start()
    file = read_gguf(path)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.metadata["k"] == ["Ā"] * tokens
    assert tokens * 40 < taken < tokens * (84 + 5 * 10) + 100_000
    long = "é" * 40_000 + "😀"
    path.write_bytes(head(keys=1) + key(b"k", 9, struct.pack("<IQQ", 8, 1, len(long.encode()))) + long.encode() + PAD)
    with pytest.raises(ModelFileError, match="at most 65535"):
        read_gguf(path)
    long = long[-20_000:]
    path.write_bytes(head(keys=1) + key(b"k", 9, struct.pack("<IQQ", 8, 1, len(long.encode()))) + long.encode() + PAD)
    assert read_gguf(path).metadata["k"] == [long]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_model_file_error(data: st.DataObject, whole: list[bytes], tmp_path: Path) -> None:
    original = data.draw(st.sampled_from(whole))
    damaged = bytearray(original)
    directory = min(len(original), 12_000)
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, directory - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))
    path = tmp_path / "damaged.gguf"
    path.unlink(missing_ok=True)
    path.write_bytes(bytes(damaged[:cut]))
    try:
        open_checkpoint(path)
    except ModelFileError as error:
        assert "\n" not in str(error)
        return
    assert cut == len(original)  # a file that lost bytes never opens


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("gguf")
    names = ("llama", "gpt_oss", "phi4 mini", "gemma3_text")
    paths = [write_zoo(make_zoo_model(name), folder / f"{name}.gguf") for name in names]
    return [path.read_bytes() for path in paths]
