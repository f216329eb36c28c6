"""GGUF models written by gguf-py: the same spec and values as the Hugging Face folder of the same model."""

import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.model.gguf_writing import make_model as make_zoo_model
from tests.model.gguf_writing import write as write_zoo
from tests.model.made_models import make_model, save, write_gguf

from penstock.core import ModelFileError, SamplingParams
from penstock.formats.gguf_blocks import dequantize
from penstock.model import RopeKind, WeightRef, inspect_checkpoint, open_checkpoint
from penstock.model.gguf_file import read_gguf


def ref_values(ref: WeightRef) -> np.ndarray:
    found = dequantize(ref.tensor)
    return found if ref.rows is None else found[ref.rows]


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {}),
        ("qwen3", {"tie_word_embeddings": True}),
    ],
)
def test_same_spec_and_values_as_the_folder(family: str, options: dict, tmp_path: Path) -> None:
    model = make_model(family, **options)
    folder = open_checkpoint(save(model, tmp_path / "hf"))
    file = open_checkpoint(write_gguf(model, tmp_path / "model.gguf"))
    expected = replace(folder.spec, norm_eps=file.spec.norm_eps)  # the file keeps a float32
    expected = replace(expected, family="llama") if family == "mistral" else expected
    assert file.spec == expected and abs(folder.spec.norm_eps - file.spec.norm_eps) < 1e-12
    for place, ref in folder.weights.tensors.items():
        assert np.array_equal(ref_values(ref), ref_values(file.weights.tensors[place])), place
    if family == "llama":  # control: without the row order q is another matrix
        q = file.weights.tensors["layers.0.q"]
        assert not np.array_equal(ref_values(folder.weights.tensors["layers.0.q"]), dequantize(q.tensor))
    assert file.eos_token_ids == (2,) and file.bos_token_id == 1
    assert file.folder is None and file.gguf_metadata is not None
    assert len(file.gguf_metadata["tokenizer.ggml.tokens"]) == 80


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "F16", "BF16"])
def test_quantized_files_open(kind: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96}
    path = write_gguf(make_model("qwen3", **sizes), tmp_path / "m.gguf", gguf.GGMLQuantizationType[kind])
    checkpoint = open_checkpoint(path)
    assert checkpoint.storage[0][0] == kind
    assert checkpoint.weights.tensors["layers.1.down"].tensor.storage.value == kind
    facts = inspect_checkpoint(path)
    assert facts.quantization == (kind if kind[0] == "Q" else None)


def test_unserved_kinds_are_refused_by_name(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    path = write_gguf(make_model("qwen3", **sizes), tmp_path / "m.gguf", gguf.GGMLQuantizationType.TQ1_0)
    with pytest.raises(ModelFileError, match="TQ1_0"):
        open_checkpoint(path)


def test_frequency_factors_are_honoured(tmp_path: Path) -> None:
    factors = np.linspace(1, 8, 8).astype(np.float32)
    path = write_gguf(make_model("llama"), tmp_path / "m.gguf", extra={"rope_freqs.weight": factors})
    rope = open_checkpoint(path).spec.layers[1].attention.rope
    assert rope.kind is RopeKind.LONGROPE
    assert rope.long_factors == rope.short_factors == tuple(float(value) for value in factors)
    assert dict(rope.scaling)["attention_factor"] == 1.0
    for bad in (factors[:4], -factors):
        path.unlink()
        with pytest.raises(ModelFileError, match="rope_freqs"):
            open_checkpoint(write_gguf(make_model("llama"), path, extra={"rope_freqs.weight": bad}))


def test_unknown_architecture_and_leftover_tensors_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="unknown architecture 'mamba'"):
        open_checkpoint(write_gguf(make_model("llama"), tmp_path / "a.gguf", architecture="mamba"))
    extra = {"blk.0.attn_sinks.weight": np.zeros(4, dtype=np.float32)}
    with pytest.raises(ModelFileError, match=r"attn_sinks\.weight' has no place"):
        open_checkpoint(write_gguf(make_model("llama"), tmp_path / "b.gguf", extra=extra))


def add_keys(source: Path, target: Path, **values: object) -> Path:
    """A copy with further integer, float or string keys in its metadata."""
    raw = source.read_bytes()
    count = int.from_bytes(raw[16:24], "little")
    body = b""
    for name, value in values.items():
        key = name.replace("__", ".").encode()
        kinds = {int: (4, lambda v: v.to_bytes(4, "little")), float: (6, lambda v: np.float32(v).tobytes())}
        kind, write = kinds.get(type(value), (8, lambda v: len(v).to_bytes(8, "little") + v.encode()))
        body += len(key).to_bytes(8, "little") + key + kind.to_bytes(4, "little") + write(value)
    start = data_start(raw)
    at = 24 + len(body) + (start[0] - 24)
    pad = -at % 32
    target.write_bytes(
        raw[:16]
        + (count + len(values)).to_bytes(8, "little")
        + body
        + raw[24 : start[0]]
        + bytes(pad)
        + raw[start[1] :]
    )
    return target


def data_start(raw: bytes) -> tuple[int, int]:
    """End of the directory and beginning of the data: the directory's last entry is the final norm or the head."""
    name = max((b"output.weight", b"output_norm.weight"), key=raw.rfind)
    rank_at = raw.rfind(name) + len(name)
    end = rank_at + 4 + 8 * int.from_bytes(raw[rank_at : rank_at + 4], "little") + 4 + 8
    return end, -(-end // 32) * 32


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"llama__expert_count": 8}, "expert_used_count is missing"),
        ({"llama__expert_count": 8, "llama__expert_used_count": 2}, "blk.0.ffn_gate_inp.weight is missing"),
        ({"llama__rope__dimension_count": 8}, "partial_rotary_factor"),
        ({"llama__rope__dimension_count": 32}, "rope.dimension_count is 32"),
        ({"llama__rope__scaling__type": "spiral", "llama__rope__scaling__factor": 2.0}, "scaling.type is 'spiral'"),
        ({"llama__rope__scaling__yarn_attn_factor": 2.0}, "yarn_attn_factor' is 2.0"),
        ({"llama__rope__freq_base_swa": 1e4}, "freq_base_swa"),
        ({"llama__attention__key_length_mla": 8}, "key_length_mla"),
        ({"llama__attention__temperature_scale": 0.5}, "temperature_scale"),
        ({"llama__expert_gating_func": 2}, "expert_gating_func"),
        ({"llama__logit_scale": 0.25}, "logit_scale"),
        ({"llama__shiny_new_trick": 1}, "shiny_new_trick"),
        ({"general__type": "mmproj"}, "general.type is 'mmproj'"),
        ({"split__count": 2}, "one of 2 files"),
    ],
)
def test_metadata_that_changes_the_answer_is_refused(values: dict, words: str, tmp_path: Path) -> None:
    path = add_keys(write_gguf(make_model("llama"), tmp_path / "a.gguf"), tmp_path / "b.gguf", **values)
    with pytest.raises(ModelFileError) as caught:
        open_checkpoint(path)
    assert words in str(caught.value)


def test_scaling_is_read(tmp_path: Path) -> None:
    keys = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 2.0}
    path = add_keys(write_gguf(make_model("llama"), tmp_path / "a.gguf"), tmp_path / "b.gguf", **keys)
    rope = open_checkpoint(path).spec.layers[0].attention.rope
    assert rope.kind is RopeKind.LINEAR and dict(rope.scaling) == {"factor": 2.0}
    keys = {**keys, "llama__rope__scaling__type": "yarn", "llama__rope__scaling__original_context_length": 64}
    path = add_keys(tmp_path / "a.gguf", tmp_path / "c.gguf", **keys)
    rope = open_checkpoint(path).spec.layers[0].attention.rope
    assert rope.kind is RopeKind.YARN and rope.original_tokens == 64


def write_set(folder: Path, **changes: dict[int, dict[str, object]]) -> list[Path]:
    """A qwen3 model in three files; `changes` maps a file's index to other values of its split keys."""
    path = write_gguf(make_model("qwen3"), folder / "whole.gguf")
    reader = gguf.GGUFReader(path)
    paths = [folder / f"m-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    for index, target in enumerate(paths):
        aside = folder / "part.gguf"  # gguf-py gives names of its own to shards
        writer = gguf.GGUFWriter(aside, "qwen3")
        for tensor in reader.tensors[index::3]:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        if index == 0:
            for key, value in read_gguf(path).metadata.items():
                if key.startswith("qwen3."):
                    (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
        keys = {"split.no": index, "split.count": 3, "split.tensors.count": len(reader.tensors)}
        for key, value in (keys | changes.get(f"file{index}", {})).items():
            if value is not None:
                writer.add_int32(key, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        shutil.move(aside, target)
    return paths


def test_files_of_a_set_open_together(tmp_path: Path) -> None:
    paths = write_set(tmp_path)
    whole, opened = open_checkpoint(tmp_path / "whole.gguf"), open_checkpoint(paths[0])
    assert opened.spec == whole.spec and opened.weights.files == tuple(map(str, paths))
    assert opened.weights.total_bytes == whole.weights.total_bytes
    for place, ref in whole.weights.tensors.items():
        assert np.array_equal(ref_values(ref), ref_values(opened.weights.tensors[place]))


def test_sets_that_gguf_py_splits_open(tmp_path: Path) -> None:
    model = make_zoo_model("mixtral")
    whole = open_checkpoint(write_zoo(model, tmp_path / "whole.gguf"))
    first = write_zoo(model, tmp_path / "split.gguf", shard_tensors=5)
    opened = open_checkpoint(first)
    assert len(opened.weights.files) > 3 and opened.spec == whole.spec
    for place, ref in whole.weights.tensors.items():
        assert np.array_equal(ref_values(ref), ref_values(opened.weights.tensors[place]))


def test_a_part_of_a_set_that_is_missing_or_foreign_is_named(tmp_path: Path) -> None:
    paths = write_set(tmp_path)
    with pytest.raises(ModelFileError, match="file 2 of 3"):
        open_checkpoint(paths[1])
    renamed = tmp_path / "model.gguf"
    shutil.copy(paths[0], renamed)
    with pytest.raises(ModelFileError, match="one of 3 files"):
        open_checkpoint(renamed)
    saved = paths[1].read_bytes()
    paths[1].unlink()
    with pytest.raises(ModelFileError, match=r"m-00002-of-00003\.gguf: no such file"):
        open_checkpoint(paths[0])
    shutil.copy(paths[2], paths[1])
    with pytest.raises(ModelFileError, match=r"m-00002-of-00003\.gguf: split\.no is 2; 1 is needed"):
        open_checkpoint(paths[0])
    paths[1].write_bytes(saved)
    open_checkpoint(paths[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file1": {"split.count": 4}}, "split.count is 4; 3 is needed"),
        ({"file2": {"split.no": None}}, "split.no is None"),
        ({"file2": {"split.tensors.count": 9}}, "split.tensors.count is 9, not that of"),
        ({f"file{index}": {"split.tensors.count": 9} for index in range(3)}, "the 3 files hold"),
    ],
)
def test_sets_that_contradict_themselves_are_refused(changes: dict, words: str, tmp_path: Path) -> None:
    paths = write_set(tmp_path, **changes)
    with pytest.raises(ModelFileError) as caught:
        open_checkpoint(paths[0])
    assert words in str(caught.value)


def test_recommended_sampling_is_the_default(tmp_path: Path) -> None:
    path = write_gguf(make_model("llama"), tmp_path / "a.gguf")
    assert open_checkpoint(path).generation_defaults == SamplingParams()
    keys = {"general__sampling__temp": 0.6, "general__sampling__top_k": 20, "general__sampling__top_p": 0.95}
    defaults = open_checkpoint(add_keys(path, tmp_path / "b.gguf", **keys)).generation_defaults
    assert defaults == SamplingParams(temperature=0.6, top_k=20, top_p=0.95)
    with pytest.raises(ModelFileError, match="temperature"):
        open_checkpoint(add_keys(path, tmp_path / "c.gguf", general__sampling__temp=-1.0))
