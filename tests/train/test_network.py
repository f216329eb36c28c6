"""Weights that do not fit the shape are named; transformers is the oracle in test_session."""

import pytest
import torch

from penstock.core.errors import ConfigError
from penstock.train import Shape
from penstock.train.network import Network, initial_weights

SHAPE = Shape(vocab_size=300, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_size=24, context_tokens=16)


def test_a_missing_an_extra_and_a_misshapen_weight_are_named() -> None:
    weights = initial_weights(SHAPE, 0)
    for wrong in (
        {name: weight for name, weight in weights.items() if name != "model.norm.weight"},
        {**weights, "model.norm.weight": torch.ones(17)},
    ):
        with pytest.raises(ConfigError, match=r"model\.norm\.weight"):
            Network(SHAPE, wrong)
    with pytest.raises(ConfigError, match=r"lm_head"):
        Network(SHAPE, {**weights, "lm_head.weight": torch.ones(300, 16)})


def test_no_position_sees_a_later_one() -> None:
    network = Network(SHAPE, initial_weights(SHAPE, 1))
    tokens = torch.arange(12)[None]
    changed = tokens.clone()
    changed[0, 8] = 99
    with torch.no_grad():
        before, after = network.logits(tokens), network.logits(changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.equal(before[:, 8:], after[:, 8:])
