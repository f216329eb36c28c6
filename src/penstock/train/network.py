"""A Llama-shaped decoder in plain torch, small enough to train on two cores.

Knows nothing about data, optimizers or files. Invariant: weight names and shapes are those of the Hugging Face Llama
layout, so that the weights saved as they are load in any Llama reader.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from penstock.core.errors import ConfigError
from penstock.train.shape import Shape


def weight_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every weight in the Hugging Face Llama layout, embedding and output tied."""
    width, kv_width = shape.hidden_size, shape.num_kv_heads * shape.head_size
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab_size, width)}
    for layer in range(shape.num_layers):
        prefix = f"model.layers.{layer}"
        shapes[f"{prefix}.input_layernorm.weight"] = (width,)
        shapes[f"{prefix}.self_attn.q_proj.weight"] = (width, width)
        shapes[f"{prefix}.self_attn.k_proj.weight"] = (kv_width, width)
        shapes[f"{prefix}.self_attn.v_proj.weight"] = (kv_width, width)
        shapes[f"{prefix}.self_attn.o_proj.weight"] = (width, width)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (width,)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = (shape.ffn_size, width)
        shapes[f"{prefix}.mlp.up_proj.weight"] = (shape.ffn_size, width)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (width, shape.ffn_size)
    shapes["model.norm.weight"] = (width,)
    return shapes


def initial_weights(shape: Shape, seed: int) -> dict[str, Tensor]:
    """Return fresh weights in f32: matrices normal with deviation 0.02, norm scales one.

    The two projections into the residual stream are smaller by the square root of how often they add to it.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, size in weight_shapes(shape).items():
        if len(size) == 1:
            weights[name] = torch.ones(size)
            continue
        into_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
        deviation = 0.02 / (2 * shape.num_layers) ** 0.5 if into_stream else 0.02
        weights[name] = torch.empty(size).normal_(0.0, deviation, generator=generator)
    return weights


def rope_table(shape: Shape) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of position times frequency, both halves alike (arXiv 2104.09864).  # 2 x [T, D] f32."""
    exponent = torch.arange(0, shape.head_size, 2, dtype=torch.float32) / shape.head_size
    angles = torch.outer(torch.arange(shape.context_tokens, dtype=torch.float32), shape.rope_theta**-exponent)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return `x` rotated to its positions; the two halves of a head are the pairs.  # [N, H, T, D] f32."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


class Network:
    """Pre-norm decoder: RMSNorm (arXiv 1910.07467), RoPE, grouped-query attention, SwiGLU (arXiv 2002.05202)."""

    def __init__(self, shape: Shape, weights: dict[str, Tensor]) -> None:
        """Hold `weights` (named as `weight_shapes` says) as leaves that gather gradients.

        Raises:
            ConfigError: a weight is missing, extra or of another shape.
        """
        expected = weight_shapes(shape)
        found = {name: tuple(weight.shape) for name, weight in weights.items()}
        if found != expected:
            odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            raise ConfigError(
                f"weight {odd[0]} has shape {found.get(odd[0])}, this network has {expected.get(odd[0])}",
                hint="use the shape that the weights were trained with",
            )
        self.shape = shape
        self.weights = {name: weights[name].detach().float().requires_grad_() for name in expected}
        self._rope = rope_table(shape)

    def to(self, device: torch.device) -> Network:
        """Return this network with its weights on `device`."""
        moved = Network(self.shape, {name: weight.to(device) for name, weight in self.weights.items()})
        moved._rope = (self._rope[0].to(device), self._rope[1].to(device))
        return moved

    def logits(self, tokens: Tensor) -> Tensor:
        """Return the logits after every position.  # [N, T] i64 -> [N, T, V] f32."""
        embedding = self.weights["model.embed_tokens.weight"]
        x = functional.embedding(tokens, embedding)
        for layer in range(self.shape.num_layers):
            prefix = f"model.layers.{layer}"
            x = x + self._attention(prefix, self._norm(f"{prefix}.input_layernorm", x))
            x = x + self._feed_forward(prefix, self._norm(f"{prefix}.post_attention_layernorm", x))
        return functional.linear(self._norm("model.norm", x), embedding)

    def loss(self, rows: Tensor) -> Tensor:
        """Return the mean cross-entropy, in nats a token, of each row's tokens after its first.  # [N, T + 1] i64."""
        logits = self.logits(rows[:, :-1])
        return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (self.shape.hidden_size,), self.weights[f"{name}.weight"], self.shape.norm_eps)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"])

    def _attention(self, prefix: str, x: Tensor) -> Tensor:
        num_rows, num_tokens, width = x.shape
        cosine, sine = self._rope[0][:num_tokens], self._rope[1][:num_tokens]

        def heads(name: str) -> Tensor:
            projected = self._linear(f"{prefix}.self_attn.{name}", x)
            return projected.view(num_rows, num_tokens, -1, self.shape.head_size).transpose(1, 2)

        groups = self.shape.num_heads // self.shape.num_kv_heads
        query = rotate(heads("q_proj"), cosine, sine)
        key = rotate(heads("k_proj"), cosine, sine).repeat_interleave(groups, dim=1)
        value = heads("v_proj").repeat_interleave(groups, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self._linear(f"{prefix}.self_attn.o_proj", mixed.transpose(1, 2).reshape(num_rows, num_tokens, width))

    def _feed_forward(self, prefix: str, x: Tensor) -> Tensor:
        gate = functional.silu(self._linear(f"{prefix}.mlp.gate_proj", x))
        return self._linear(f"{prefix}.mlp.down_proj", gate * self._linear(f"{prefix}.mlp.up_proj", x))
