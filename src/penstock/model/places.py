"""Every place that a `DecoderSpec` implies and its shape.

Knows nothing about files or tensor names. Invariant: a place is listed exactly once; a tied head is not listed.
"""

from __future__ import annotations

from math import prod

from penstock.model.spec import DecoderSpec, Layer


def places(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Place → shape, outputs first, for dense layers."""
    found: dict[str, tuple[int, ...]] = {"embed": (spec.vocab, spec.hidden)}
    for index, layer in enumerate(spec.layers):
        found |= {f"layers.{index}.{name}": shape for name, shape in layer_places(layer, spec.hidden).items()}
    found["final_norm"] = (spec.hidden,)
    if not spec.tied_head:
        found["head"] = (spec.vocab, spec.hidden)
    if spec.head_bias:
        found["head.bias"] = (spec.vocab,)
    return found


def layer_places(layer: Layer, hidden: int) -> dict[str, tuple[int, ...]]:
    """Place within a dense layer → shape."""
    attention, wide = layer.attention, layer.mlp.intermediate
    q, kv = attention.num_heads * attention.head_dim, attention.num_kv_heads * attention.head_dim
    found: dict[str, tuple[int, ...]] = {}
    if layer.pre_norms:
        found |= {"attn_norm": (hidden,), "mlp_norm": (hidden,)}
    if layer.post_norms:
        found |= {"attn_post_norm": (hidden,), "mlp_post_norm": (hidden,)}
    found |= {"q": (q, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, q)}
    biases = (("q", attention.q_bias), ("k", attention.k_bias), ("v", attention.v_bias), ("o", attention.o_bias))
    found |= {f"{name}.bias": found[name][:1] for name, wanted in biases if wanted}
    if attention.qk_norm:
        found |= {"q_norm": (attention.head_dim,), "k_norm": (attention.head_dim,)}
    if attention.sinks:
        found["sinks"] = (attention.num_heads,)
    matrices = {"gate": (wide, hidden), "up": (wide, hidden), "down": (hidden, wide)}
    found |= matrices
    if layer.mlp.bias:
        found |= {f"{name}.bias": shape[:1] for name, shape in matrices.items()}
    return found


def count_parameters(spec: DecoderSpec) -> int:
    """Trained values of the model; a tied head counts once."""
    return sum(prod(shape) for shape in places(spec).values())


def kv_values_per_token(spec: DecoderSpec) -> int:
    """Values (not bytes) of K and V that one token keeps, over all layers."""
    return sum(2 * layer.attention.num_kv_heads * layer.attention.head_dim for layer in spec.layers)
