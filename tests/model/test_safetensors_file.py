"""The safetensors reader against the format's own writer, and against files that lie."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tests.model.made_models import make_model, save

from penstock.core import ModelFileError
from penstock.formats.gguf_blocks import dequantize
from penstock.model import open_checkpoint
from penstock.model.safetensors_file import INDEX, read_folder, read_safetensors


def test_what_is_written_is_read(tmp_path: Path) -> None:
    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, dtype=np.float16)}
    save_file({**values, "c": np.arange(3)}, tmp_path / "m.safetensors")
    file = read_safetensors(tmp_path / "m.safetensors")
    assert {name: tensor.shape for name, tensor in file.tensors.items()} == {"a": (2, 3), "b": (4,)}
    assert all(np.array_equal(dequantize(file.tensors[name]), values[name]) for name in values)
    assert file.foreign == {"c": "I64"} and file.octets == {}


def test_bytes_are_handed_out_beside_the_foreign(tmp_path: Path) -> None:
    values = {"codes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "signed": np.ones(3, dtype=np.int8)}
    save_file({**values, "a": np.ones(2, dtype=np.float32)}, tmp_path / "m.safetensors")
    file = read_safetensors(tmp_path / "m.safetensors")
    assert file.tensors.keys() == {"a"} and file.foreign == {"codes": "U8", "signed": "I8"}
    assert file.octets.keys() == {"codes"}
    octets = file.octets["codes"]
    assert octets.shape == (2, 3, 4) and not octets.data.flags.writeable
    assert octets.data.tolist() == list(range(24))


def entry(begin: object = 0, end: object = 16, shape: object = (4,), dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write(path: Path, header: object, body: int = 16) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(body))
    return path


LIES = {
    "past end": ({"w": entry(0, 32, [8])}, "truncated"),
    "after last": ({"w": entry(0, 8, [2])}, "after the last"),
    "gap": ({"w": entry(8, 16, [2])}, "gap"),
    "overlap": ({"w": entry(0, 12, [3]), "v": entry(8, 16, [2])}, "overlap"),
    "size": ({"w": entry(0, 16, [5])}, "needs 20 bytes"),
    "overflow": ({"w": entry(0, 16, [2**62, 2**62])}, "bytes"),
    "wraps": ({"w": entry(0, 16, [2**62 + 4])}, "bytes"),
    "negative": ({"w": entry(-16, 0)}, "no span"),
    "backwards": ({"w": entry(16, 0)}, "no span"),
    "boolean": ({"w": entry(False, 16)}, "no span"),
    "float": ({"w": entry(0.0, 16)}, "no span"),
    "rank": ({"w": entry(0, 16, [1] * 9)}, "counts"),
    "dtype": ({"w": entry(dtype="Q3")}, "unknown dtype 'Q3'"),
    "dtype kind": ({"w": entry(dtype=["F32"])}, "unknown dtype"),
    "no entry": ({"w": 3}, "data_offsets"),
    "extra key": ({"w": {**entry(), "code": "x"}}, "data_offsets"),
    "list": ([1], "object"),
    "deep": (b"[" * 5000 + b"]" * 5000, "deep"),
    "duplicate": (b'{"w": 1, "w": 2}', "twice"),
    "not json": (b"{", "JSON"),
    "not utf-8": (b'{"\xff": 1}', "JSON"),
    "huge number": (b'{"w": ' + b"9" * 5000 + b"}", "JSON"),
    "many values": (b'{"w": [' + b"0," * 4_000_001 + b"0]}", "bytes of memory"),
}


@pytest.mark.parametrize("name", sorted(LIES))
def test_lies_are_refused_by_name(name: str, tmp_path: Path) -> None:
    header, words = LIES[name]
    path = write(tmp_path / "m.safetensors", header)
    with pytest.raises(ModelFileError) as caught:
        read_safetensors(path)
    assert words in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_control_the_same_layout_without_the_lie_is_read(tmp_path: Path) -> None:
    assert read_safetensors(write(tmp_path / "m.safetensors", {"w": entry()})).tensors["w"].shape == (4,)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b"123", "too short"),
        (b"\xff" * 8, "header of"),
        ((10**6).to_bytes(8, "little") + b"{}", "truncated"),
    ],
)
def test_bad_lengths(raw: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw)
    with pytest.raises(ModelFileError, match=words):
        read_safetensors(path)


@pytest.mark.parametrize("shard", ["../m.safetensors", "/etc/m.safetensors", "a/b.safetensors", "m.bin", "", 3])
def test_shards_outside_the_folder_are_refused(shard: object, tmp_path: Path) -> None:
    write(tmp_path / "m.safetensors", {"w": entry()})
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(ModelFileError, match="no plain"):
        read_folder(folder)


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", {"w": entry()})
    write(tmp_path / "b.safetensors", {"w": entry()})
    index = tmp_path / INDEX
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}))
    with pytest.raises(ModelFileError, match="another shard"):
        read_folder(tmp_path)
    write(tmp_path / "b.safetensors", {"u": entry()})
    with pytest.raises(ModelFileError, match=r"'v' is not in b\.safetensors"):
        read_folder(tmp_path)
    write(tmp_path / "b.safetensors", {"v": entry()})
    assert len(read_folder(tmp_path)) == 2


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelFileError, match="can run code"):
        read_folder(tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_model("qwen2"), tmp_path_factory.mktemp("saved"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_model_file_error(data: st.DataObject, saved: Path, tmp_path: Path) -> None:
    name = data.draw(st.sampled_from(["model.safetensors", "config.json", "generation_config.json"]))
    whole = (saved / name).read_bytes()
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, min(len(whole), 3000) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    for part in ("model.safetensors", "config.json", "generation_config.json"):
        (tmp_path / part).unlink(missing_ok=True)
        (tmp_path / part).write_bytes(bytes(damaged[:cut]) if part == name else (saved / part).read_bytes())
    try:
        open_checkpoint(tmp_path)
    except ModelFileError as error:
        assert "\n" not in str(error)
        return
    assert cut == len(whole) or name != "model.safetensors"
