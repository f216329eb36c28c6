"""Layouts of GGUF architectures: other ways of storing the same tensors hold the same values."""

from pathlib import Path

import numpy as np
import pytest
from tests.model.gguf_writing import Tensors, make_model, write

from penstock.core import ModelFileError
from penstock.formats.gguf_blocks import dequantize
from penstock.model import DecoderSpec, open_checkpoint
from penstock.model.families import FAMILIES
from penstock.model.gguf_names import LAYOUTS, stored_as


def values(path: Path) -> dict[str, np.ndarray]:
    found = {}
    for place, ref in open_checkpoint(path).weights.tensors.items():
        rows = dequantize(ref.tensor)
        rows = rows if ref.count < 0 else rows[ref.first : ref.first + ref.count]
        found[place] = rows if ref.rows is None else rows[ref.rows]
    return found


def fused(tensors: Tensors) -> Tensors:
    """q, k and v in one tensor, and gate and up of all experts in another."""
    found = dict(tensors)
    for index in range(2):
        at = f"blk.{index}."
        found[f"{at}attn_qkv.weight"] = np.concatenate([found.pop(f"{at}attn_{part}.weight") for part in "qkv"])
        stacks = [found.pop(f"{at}ffn_{part}_exps.weight") for part in ("gate", "up")]
        found[f"{at}ffn_gate_up_exps.weight"] = np.concatenate(stacks, axis=1)
    return found


def one_by_one(tensors: Tensors) -> Tensors:
    """One tensor an expert and projection, as the oldest mixtures have them."""
    found = {name: value for name, value in tensors.items() if "_exps" not in name}
    for name, stack in tensors.items():
        if "_exps" in name:
            found |= {
                name.replace("_exps", f".{expert}"): np.ascontiguousarray(part) for expert, part in enumerate(stack)
            }
    return found


def swapped(tensors: Tensors) -> Tensors:
    """Control: experts in another order are other values."""
    return {name: np.ascontiguousarray(value[::-1]) if "_exps" in name else value for name, value in tensors.items()}


@pytest.mark.parametrize(("change", "same"), [(fused, True), (one_by_one, True), (swapped, False)])
def test_other_ways_of_storing_a_mixture(change, same: bool, tmp_path: Path) -> None:
    model = make_model("mixtral")
    expected = values(write(model, tmp_path / "a.gguf"))
    found = values(write(model, tmp_path / "b.gguf", change=change))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[place], expected[place]) for place in expected) is same


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("mixtral", "blk.1.ffn_up_exps.weight"),
        ("mixtral", "blk.0.ffn_gate_inp.weight"),
        ("gpt_oss", "blk.0.attn_sinks.weight"),
        ("gpt_oss", "blk.3.ffn_down_exps.bias"),
        ("gpt_oss", "blk.0.post_attention_norm.weight"),
        ("gemma2", "blk.0.post_ffw_norm.weight"),
        ("phi3", "blk.0.ffn_up.weight"),
        ("qwen2_moe", "blk.0.ffn_gate_inp_shexp.weight"),
        ("olmo2", "blk.1.attn_q_norm.weight"),
    ],
)
def test_a_missing_tensor_is_named(name: str, missing: str, tmp_path: Path) -> None:
    def without(tensors: Tensors) -> Tensors:
        return {name: value for name, value in tensors.items() if name != missing}

    with pytest.raises(ModelFileError) as caught:
        open_checkpoint(write(make_model(name), tmp_path / "m.gguf", change=without))
    assert f"tensor {missing} is missing" in str(caught.value)


def test_a_tensor_too_many_is_named(tmp_path: Path) -> None:
    def more(tensors: Tensors) -> Tensors:
        return tensors | {"blk.0.attn_gate.weight": tensors["blk.0.attn_q.weight"]}

    with pytest.raises(ModelFileError, match=r"blk\.0\.attn_gate\.weight' has no place"):
        open_checkpoint(write(make_model("qwen3"), tmp_path / "m.gguf", change=more))


@pytest.mark.parametrize("architecture", sorted(LAYOUTS))
def test_a_layout_replaces_what_a_family_says_of_gguf(architecture: str) -> None:
    spec = DecoderSpec("gemma", 64, 100, (), 1e-6, 512, norm_offset=1.0)
    family, changed = stored_as(architecture, FAMILIES[0], spec)
    assert family.names == FAMILIES[0].names and family.gguf_permuted == LAYOUTS[architecture].permuted
    assert changed.norm_offset == (0.0 if architecture.startswith("gemma") else spec.norm_offset)
