"""Checkpoints: what is read is what was written, and foreign files are refused by name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from penstock.core.errors import ConfigError
from penstock.train import Optimization, Progress, Shape
from penstock.train.checkpoint import load_checkpoint, save_checkpoint
from penstock.train.loop import make_optimizer
from penstock.train.network import Network, initial_weights

SHAPE = Shape(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_size=24, context_tokens=16)


def stepped(seed: int) -> tuple[Network, torch.optim.Optimizer]:
    network = Network(SHAPE, initial_weights(SHAPE, seed))
    optimizer = make_optimizer(network, Optimization())
    network.loss(torch.arange(20).reshape(2, 10)).backward()
    optimizer.step()
    return network, optimizer


def test_everything_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    network, optimizer = stepped(1)
    save_checkpoint(path, network, optimizer, Progress(5, 1.25))
    other, other_optimizer = stepped(2)
    assert load_checkpoint(path, other, other_optimizer) == Progress(5, 1.25)
    for name, weight in network.weights.items():
        assert torch.equal(weight, other.weights[name])
        for key, moment in optimizer.state[weight].items():
            assert torch.equal(moment, other_optimizer.state[other.weights[name]][key])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name], "nothing half-written is left"


def test_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, *stepped(1), Progress())
    wider = Shape(vocab_size=301, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_size=24)
    with pytest.raises(ConfigError, match="shape"):
        load_checkpoint(path, Network(wider, initial_weights(wider, 0)))


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, None])
def test_other_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "checkpoint.safetensors"
    if content is None:
        save_file({"x": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="not a checkpoint"):
        load_checkpoint(path, Network(SHAPE, initial_weights(SHAPE, 0)))
