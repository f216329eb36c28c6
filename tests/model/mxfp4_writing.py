"""gpt-oss models with MXFP4 experts, written as they are published; nothing of penstock is used."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tests.model.zoo import save
from transformers import PreTrainedModel
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

STACKS = ("gate_up_proj", "down_proj")


def save_mxfp4(model: PreTrainedModel, folder: Path, seed: int = 1) -> Path:
    """The model with random MXFP4 experts, set in it and written as they are published."""
    save(model, folder)
    tensors, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(seed)
    for index, layer in enumerate(model.model.layers):
        for name in STACKS:
            weight = getattr(layer.mlp.experts, name)  # [experts, inputs, outputs]
            count, inputs, outputs = weight.shape
            shape = (count, outputs, inputs // 32)
            blocks = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
            scales = torch.randint(121, 124, shape, generator=generator, dtype=torch.uint8)
            with torch.no_grad():
                weight.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
            stem = f"model.layers.{index}.mlp.experts.{name}"
            del tensors[stem]
            tensors |= {f"{stem}_blocks": blocks, f"{stem}_scales": scales}
    write(folder, tensors)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "mxfp4"}}))
    return folder


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
