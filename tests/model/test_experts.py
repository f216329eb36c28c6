"""Mixtures saved by transformers, in both of its forms, fill every place with the right values; so do MXFP4 experts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.model.zoo import MIXTURES, make_zoo_model, save

from penstock.formats.gguf_blocks import dequantize
from penstock.model import Checkpoint, open_checkpoint
from penstock.model.places import places

DENSE = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "attn_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "router": "mlp.gate.weight",
    "router.bias": "mlp.router.bias",
    "sinks": "self_attn.sinks",
    "shared.router": "mlp.shared_expert_gate.weight",
}


def expected(model: torch.nn.Module, place: str) -> torch.Tensor:
    """The model's own values of a place, taken from its parameters as its forward pass uses them."""
    state, parts = model.state_dict(), place.split(".")
    if parts[0] != "layers":
        return state[DENSE[place]]
    at, inner = f"model.layers.{parts[1]}.", ".".join(parts[2:])
    turned = model.config.model_type == "gpt_oss"  # inputs first, gate and up in turns
    if inner == "router" and turned:
        return state[at + "mlp.router.weight"]
    if inner in DENSE:
        return state[at + DENSE[inner]]
    if parts[2] == "experts":
        bias = inner.endswith(".bias")
        name = "down_proj" if parts[4] == "down" else "gate_up_proj"
        values = state[f"{at}mlp.experts.{name}{'_bias' if bias else ''}"][int(parts[3])]
        if turned and not bias:
            values = values.T
        if parts[4] == "down":
            return values
        half = len(values) // 2
        first = 0 if parts[4] == "gate" else 1
        return values[first::2] if turned else values[first * half : (first + 1) * half]
    module = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj"}
    module |= {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
    module |= {f"shared.{name}": f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")}
    module |= {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    stem, bias, _ = inner.partition(".bias")
    return state[f"{at}{module[stem]}{bias or '.weight'}"]


def values_of(checkpoint: Checkpoint, place: str) -> np.ndarray:
    ref = checkpoint.weights.tensors[place]
    assert ref.rows is None and ref.offset == 0
    tensor = ref.tensor if ref.load is None else ref.load()
    assert (tensor.name, tensor.storage, tensor.shape) == (ref.tensor.name, ref.tensor.storage, ref.tensor.shape)
    values = dequantize(tensor)
    return values[ref.first :] if ref.count < 0 else values[ref.first : ref.first + ref.count]


def mismatches(checkpoint: Checkpoint, model: torch.nn.Module) -> list[str]:
    found = []
    for place, shape in places(checkpoint.spec).items():
        values = values_of(checkpoint, place)
        assert values.shape == shape
        if not np.array_equal(values, expected(model, place).float().numpy()):
            found.append(place)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", MIXTURES)
def test_every_place_is_filled(name: str, fused: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    model = make_zoo_model(name).to(dtype)
    checkpoint = open_checkpoint(save(model, tmp_path, save_original_format=not fused))
    stored = {tensor.name for tensor in (ref.tensor for ref in checkpoint.weights.tensors.values())}
    assert any("[0]" in tensor for tensor in stored) == (fused or name == "gpt_oss")
    assert mismatches(checkpoint, model) == []
    assert sum(size for _, size in checkpoint.storage) == checkpoint.weights.total_bytes
    with torch.no_grad():
        experts = model.model.layers[1].mlp.experts
        experts.gate_up_proj[[0, 2]] = experts.gate_up_proj[[2, 0]]  # control: two experts swapped
    assert mismatches(checkpoint, model) == [
        f"layers.1.experts.{expert}.{part}" for expert in (0, 2) for part in ("gate", "up")
    ]
