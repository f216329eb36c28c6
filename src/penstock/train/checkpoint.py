"""Training state on disk: weights, optimizer state and progress in one safetensors file, replaced atomically.

Knows nothing about data or schedules. Invariant: a reader sees the whole previous checkpoint or the whole new one.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from penstock.core.errors import ConfigError
from penstock.train.network import Network

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: finished steps and seconds spent in them."""

    step: int = 0
    spent_s: float = 0.0


def save_checkpoint(path: Path, network: Network, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write weights, AdamW moments and progress to `path`."""
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in network.weights.items():
        tensors[f"weight.{name}"] = weight.detach()
        for key in MOMENTS:
            tensors[f"adam.{key}.{name}"] = optimizer.state[weight][key]
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"progress": json.dumps(asdict(progress))})
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.replace(path)


def load_checkpoint(path: Path, network: Network, optimizer: torch.optim.Optimizer | None = None) -> Progress:
    """Fill `network`, and `optimizer` when given, from `path` and return the progress stored with them.

    Raises:
        ConfigError: the file is not a checkpoint of a network of this shape.
    """
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress(**json.loads((file.metadata() or {})["progress"]))
            for name, weight in network.weights.items():
                stored = file.get_tensor(f"weight.{name}")
                if stored.shape != weight.shape:
                    raise ValueError(f"{name} has shape {list(stored.shape)}, not {list(weight.shape)}")
                with torch.no_grad():
                    weight.copy_(stored)
                if optimizer is not None:
                    moments = {key: file.get_tensor(f"adam.{key}.{name}").to(weight.device) for key in MOMENTS}
                    optimizer.state[weight] = moments
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is not a checkpoint of this network: {error}", hint="start a new run") from error
    return progress
