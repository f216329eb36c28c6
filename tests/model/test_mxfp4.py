"""Published MXFP4 experts: the values that transformers makes of codes and scales, one expert at a time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.model.mxfp4_writing import save_mxfp4, write
from tests.model.zoo import make_zoo_model
from transformers import PreTrainedModel

from penstock.core import ModelFileError
from penstock.formats import RawTensor, Storage, num_bytes
from penstock.formats.gguf_blocks import dequantize
from penstock.model import Checkpoint, open_checkpoint
from penstock.model.mxfp4 import joined_blocks

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def mismatches(checkpoint: Checkpoint, model: PreTrainedModel) -> list[str]:
    found = []
    for index, layer in enumerate(model.model.layers):
        for expert in range(model.config.num_local_experts):
            both = layer.mlp.experts.gate_up_proj[expert].T
            expected = {"gate": both[0::2], "up": both[1::2], "down": layer.mlp.experts.down_proj[expert].T}
            for name, values in expected.items():
                ref = checkpoint.weights.tensors[f"layers.{index}.experts.{expert}.{name}"]
                assert ref.load is not None and ref.tensor.storage is Storage.MXFP4
                made = ref.load()
                assert (made.name, made.storage, made.shape) == (ref.tensor.name, Storage.MXFP4, ref.tensor.shape)
                assert len(made.data) == num_bytes(Storage.MXFP4, made.shape)
                if not np.array_equal(dequantize(made), values.detach().numpy()):
                    found.append(f"{index}.{expert}.{name}")
    return found


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make_zoo_model("gpt_oss")


def test_experts_are_those_of_transformers(model: PreTrainedModel, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_mxfp4(model, tmp_path))
    assert mismatches(checkpoint, model) == []
    assert sum(size for _, size in checkpoint.storage) == checkpoint.weights.total_bytes
    assert {kind for kind, _ in checkpoint.storage} == {"MXFP4", "F32"}
    names = [ref.tensor.name for ref in checkpoint.weights.tensors.values()]
    assert len(set(names)) == len(names)
    with torch.no_grad():
        down = model.model.layers[2].mlp.experts.down_proj
        down[[0, 1]] = down[[1, 0]]  # control: two experts swapped
    assert mismatches(checkpoint, model) == ["2.0.down", "2.1.down"]


def test_two_tunes_of_one_model_are_two_models(model: PreTrainedModel, tmp_path: Path) -> None:
    one, other = (open_checkpoint(save_mxfp4(model, tmp_path / str(seed), seed)) for seed in (1, 2))
    again = open_checkpoint(save_mxfp4(model, tmp_path / "3", 1))
    assert one.weights.identity == again.weights.identity != other.weights.identity


@given(st.binary(min_size=64, max_size=64), st.integers(0, 254), st.integers(0, 254))
def test_joined_blocks_are_the_formula(codes: bytes, first: int, second: int) -> None:
    packed = np.frombuffer(codes, np.uint8).reshape(2, 2, 16)
    scales = np.array([[first, second], [second, first]], np.uint8)
    nibbles = np.stack([packed & 15, packed >> 4], -1).reshape(2, 2, 32)
    signed = np.where(nibbles & 8, -FP4[nibbles & 7], FP4[nibbles & 7])
    with np.errstate(over="ignore"):
        expected = np.ldexp(signed, scales[..., None].astype(np.int32) - 127).reshape(2, 64)

    def values(blocks: np.ndarray) -> np.ndarray:
        return dequantize(RawTensor("made", Storage.MXFP4, (2, 64), blocks))

    assert np.array_equal(values(joined_blocks(packed, scales)), expected)
    if (packed[..., 0] & 15 != packed[..., 0] >> 4).any():  # control: codes 0 and 1 in each other's place
        turned = packed.copy()
        turned[..., 0] = packed[..., 0] << 4 | packed[..., 0] >> 4
        plus, minus = nibbles[..., 0] & 7, nibbles[..., 1] & 7
        if (plus != minus).any():
            assert not np.array_equal(values(joined_blocks(turned, scales)), expected)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t, n: t.pop(f"{n}_scales"), "gate_up_proj is missing"),
        (lambda t, n: t.update({f"{n}_scales": t[f"{n}_scales"].to(torch.int8)}), "is I8, which is not served"),
        (
            lambda t, n: t.update({f"{n}_scales": t[f"{n}_scales"][:, :-2].contiguous()}),
            r"the config needs \(4, 128, 2\)",
        ),
        (lambda t, n: t.update({f"{n}_blocks": t[f"{n}_blocks"].float()}), "is F32; U8 is needed"),
        (lambda t, n: t.update({f"{n}_blocks": t[f"{n}_blocks"].transpose(0, 1).contiguous()}), "the config needs"),
        (lambda t, n: t.update({f"{n}_more": t[f"{n}_blocks"].clone()}), "gate_up_proj_more' has no place"),
    ],
)
def test_what_is_wrong_is_named(change: object, match: str, model: PreTrainedModel, tmp_path: Path) -> None:
    folder = save_mxfp4(model, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    change(tensors, "model.layers.1.mlp.experts.gate_up_proj")
    write(folder, tensors)
    with pytest.raises(ModelFileError, match=match):
        open_checkpoint(folder)


def test_rows_that_are_no_whole_blocks_are_refused(tmp_path: Path) -> None:
    model = make_zoo_model("gpt_oss")
    folder = save_mxfp4(model, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 65}))
    tensors = load_file(folder / "model.safetensors")
    for index in range(4):
        at = f"model.layers.{index}.mlp.experts."
        tensors |= {f"{at}gate_up_proj_blocks": torch.zeros((4, 130, 2, 16), dtype=torch.uint8)}
        tensors |= {f"{at}gate_up_proj_scales": torch.zeros((4, 130, 2), dtype=torch.uint8)}
        tensors |= {f"{at}gate_up_proj_bias": torch.zeros((4, 130))}
    write(folder, tensors)
    with pytest.raises(ModelFileError, match="rows of 65 are no whole number of blocks of 32"):
        open_checkpoint(folder)
