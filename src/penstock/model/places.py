"""Every place that a `DecoderSpec` implies and its shape.

Knows nothing about files or tensor names. Invariant: a place is listed exactly once; a tied head is not listed.
"""

from __future__ import annotations

from math import prod

from penstock.model.spec import Attention, DecoderSpec, Layer, Mlp, QkNorm

Shape = tuple[int, ...]


def places(spec: DecoderSpec) -> dict[str, Shape]:
    """Place → shape, outputs first, of the whole model."""
    found = dict(model_places(spec))
    for index, inner in enumerate(all_layer_places(spec)):
        found |= {f"layers.{index}.{name}": shape for name, shape in inner.items()}
    return found


def model_places(spec: DecoderSpec) -> dict[str, Shape]:
    """Place → shape of what lies outside of the layers."""
    found: dict[str, Shape] = {"embed": (spec.vocab, spec.hidden), "final_norm": (spec.hidden,)}
    if not spec.tied_head:
        found["head"] = (spec.vocab, spec.hidden)
    if spec.head_bias:
        found["head.bias"] = (spec.vocab,)
    return found


def all_layer_places(spec: DecoderSpec) -> list[dict[str, Shape]]:
    """`layer_places` of every layer; equal layers share one table."""
    made: dict[Layer, dict[str, Shape]] = {}
    for layer in spec.layers:
        if layer not in made:
            made[layer] = layer_places(layer, spec.hidden)
    return [made[layer] for layer in spec.layers]


def layer_places(layer: Layer, hidden: int) -> dict[str, Shape]:
    """Place within a layer → shape."""
    found: dict[str, Shape] = {}
    if layer.pre_norms:
        found |= {"attn_norm": (hidden,), "mlp_norm": (hidden,)}
    if layer.post_norms:
        found |= {"attn_post_norm": (hidden,), "mlp_post_norm": (hidden,)}
    return found | _attention(layer.attention, hidden) | _mlp(layer.mlp, hidden)


def _attention(attention: Attention, hidden: int) -> dict[str, Shape]:
    q, kv = attention.num_heads * attention.head_dim, attention.num_kv_heads * attention.head_dim
    found: dict[str, Shape] = {"q": (q, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, q)}
    biases = (("q", attention.q_bias), ("k", attention.k_bias), ("v", attention.v_bias), ("o", attention.o_bias))
    found |= {f"{name}.bias": found[name][:1] for name, wanted in biases if wanted}
    if attention.qk_norm is QkNorm.HEAD:
        found |= {"q_norm": (attention.head_dim,), "k_norm": (attention.head_dim,)}
    elif attention.qk_norm is QkNorm.ALL:
        found |= {"q_norm": (q,), "k_norm": (kv,)}
    if attention.sinks:
        found["sinks"] = (attention.num_heads,)
    return found


def _mlp(mlp: Mlp, hidden: int) -> dict[str, Shape]:
    if not mlp.num_experts:
        return _gated("", mlp.intermediate, hidden, mlp.bias)
    found: dict[str, Shape] = {"router": (mlp.num_experts, hidden)}
    if mlp.router_bias:
        found["router.bias"] = (mlp.num_experts,)
    for expert in range(mlp.num_experts):
        found |= _gated(f"experts.{expert}.", mlp.intermediate, hidden, mlp.bias)
    if mlp.shared_intermediate:
        found |= _gated("shared.", mlp.shared_intermediate, hidden, bias=False)
        if mlp.shared_gate:
            found["shared.router"] = (1, hidden)
    return found


def _gated(at: str, wide: int, hidden: int, bias: bool) -> dict[str, Shape]:
    found: dict[str, Shape] = {f"{at}gate": (wide, hidden), f"{at}up": (wide, hidden), f"{at}down": (hidden, wide)}
    return found | {f"{place}.bias": shape[:1] for place, shape in found.items()} if bias else found


def count_parameters(spec: DecoderSpec) -> int:
    """Trained values of the model; a tied head counts once."""
    total = sum(map(prod, model_places(spec).values()))
    made: dict[Layer, int] = {}
    for layer, inner in zip(spec.layers, all_layer_places(spec), strict=True):
        if layer not in made:
            made[layer] = sum(map(prod, inner.values()))
        total += made[layer]
    return total


def count_active_parameters(spec: DecoderSpec) -> int:
    """Trained values that one token meets: all but the experts that its routers do not choose."""
    idle = 0
    for layer in spec.layers:
        mlp = layer.mlp
        if mlp.num_experts:
            one = sum(map(prod, _gated("", mlp.intermediate, spec.hidden, mlp.bias).values()))
            idle += (mlp.num_experts - mlp.experts_per_token) * one
    return count_parameters(spec) - idle
