"""Qwen 3 mixtures: Qwen 3's attention, mixtures in some or all layers, no shared expert.

Knows nothing about files. Invariant: a window that `use_sliding_window` turns on holds in every layer.
"""

from __future__ import annotations

from penstock.model.dense import Family, Traits, dense_spec, switched_window
from penstock.model.fields import Fields
from penstock.model.mixture import COUNTS, read_mixture, sparse_layers
from penstock.model.spec import DecoderSpec, QkNorm


def _spec(config: Fields) -> DecoderSpec:
    if config.get("layer_types") is not None:
        raise config.error("layer_types is not supported for qwen3_moe.")
    bias = config.flag("attention_bias", False)
    mixture = read_mixture(config, config.integer("moe_intermediate_size"), config.flag("norm_topk_prob", False))
    traits = Traits(
        qkv_bias=bias,
        o_bias=bias,
        qk_norm=QkNorm.HEAD,
        window=switched_window(config),
        mlp=sparse_layers(config, mixture),
    )
    return dense_spec(config, "qwen3_moe", traits)


QWEN3_MOE = Family(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    _spec,
    defaults={
        "num_key_value_heads": 4,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "max_position_embeddings": 32768,
    },
    reads=frozenset(COUNTS),
)
