"""Held-out loss: each token once, against a token-by-token computation."""

import numpy as np
import pytest
import torch

from penstock.train import Shape
from penstock.train.evaluate import mean_loss, quality
from penstock.train.network import Network, initial_weights
from penstock.train.tables import HeldOut

SHAPE = Shape(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_size=24, context_tokens=8)


@pytest.mark.parametrize("num_tokens", [2, 8, 9, 10, 17, 100])
def test_the_mean_is_over_every_token_once(num_tokens: int) -> None:
    network = Network(SHAPE, {name: 3 * weight for name, weight in initial_weights(SHAPE, 1).items()})
    tokens = np.random.default_rng(1).integers(0, 300, num_tokens).astype(np.uint16)
    losses = []
    for place in range(1, num_tokens):
        first = (place - 1) // 8 * 8
        with torch.no_grad():
            logits = network.logits(torch.from_numpy(tokens[None, first:place].astype(np.int64)))[0, -1]
        losses.append(-float(torch.log_softmax(logits, dim=0)[int(tokens[place])]))
    assert mean_loss(network, tokens) == pytest.approx(np.mean(losses), rel=1e-5)


def test_bits_per_byte_follow_from_the_loss() -> None:
    network = Network(SHAPE, {name: torch.zeros_like(w) for name, w in initial_weights(SHAPE, 1).items()})
    found = quality(network, HeldOut("x", np.zeros(101, dtype=np.uint16), num_bytes=400))
    assert found["perplexity"] == pytest.approx(300, rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(np.log2(300) / 4, rel=1e-5)
