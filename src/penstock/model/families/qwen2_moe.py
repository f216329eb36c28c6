"""Qwen 2 mixtures: Qwen 2's attention; mixtures, with a shared expert behind a gate, in some or all layers.

Knows nothing about files. Invariant: where a window is on and `layer_types` is absent, every other one of the first
`max_window_layers` layers is windowed, from the first on.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.core import limits
from penstock.model.dense import Family, Traits, dense_spec, switched_window, windowed_layers
from penstock.model.fields import Fields
from penstock.model.mixture import COUNTS, read_mixture, sparse_layers
from penstock.model.spec import DecoderSpec


def _spec(config: Fields) -> DecoderSpec:
    window = switched_window(config)
    most = config.integer("max_window_layers", 28, low=0, high=limits.MAX_LAYERS)
    mixture = read_mixture(config, config.integer("moe_intermediate_size"), config.flag("norm_topk_prob", False))
    shared = config.integer("shared_expert_intermediate_size")
    traits = Traits(
        qkv_bias=config.flag("qkv_bias", True),
        window=window,
        windowed=windowed_layers(config, window, lambda index: index % 2 == 0 and index < most),
        mlp=sparse_layers(config, replace(mixture, shared_intermediate=shared, shared_gate=True)),
    )
    return dense_spec(config, "qwen2_moe", traits)


QWEN2_MOE = Family(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    _spec,
    defaults={
        "num_key_value_heads": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "max_position_embeddings": 32768,
    },
    reads=frozenset(COUNTS),
)
