"""Perplexity of a network on held-out text, per token and per byte.

Knows nothing about training. Invariant: every token but the first is predicted exactly once, each from the tokens
before it in its own window.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from penstock.train.network import Network
from penstock.train.tables import HeldOut

WINDOWS_AT_ONCE = 8


def mean_loss(network: Network, tokens: npt.NDArray[np.uint16], max_windows: int = 0) -> float:
    """Return the mean cross-entropy in nats a token over windows of the context, the first `max_windows` if above 0."""
    context = network.shape.context_tokens
    starts = list(range(0, len(tokens) - 1, context))[: max_windows or None]
    whole = [start for start in starts if start + context < len(tokens)]
    batches = [whole[index : index + WINDOWS_AT_ONCE] for index in range(0, len(whole), WINDOWS_AT_ONCE)]
    batches += [[start] for start in starts[len(whole) :]]
    device = next(iter(network.weights.values())).device
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            rows = np.stack([tokens[start : start + context + 1] for start in batch]).astype(np.int64)
            num_predicted = rows.shape[0] * (rows.shape[1] - 1)
            total += float(network.loss(torch.from_numpy(rows).to(device))) * num_predicted
            count += num_predicted
    return total / count


def quality(network: Network, held_out: HeldOut) -> dict[str, float]:
    """Return loss (nats a token), perplexity (per token) and bits_per_byte over all of `held_out`.

    The bits of the marks between passages are counted, their bytes are not: the figure errs to the high side.
    """
    loss = mean_loss(network, held_out.tokens)
    bits = loss * (len(held_out.tokens) - 1) / math.log(2)
    return {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": bits / held_out.num_bytes}


def rounded_to_bf16(network: Network) -> Network:
    """Return the network as it is exported: its weights rounded to bf16, computing in f32."""
    return Network(network.shape, {name: weight.bfloat16().float() for name, weight in network.weights.items()})
