"""Qwen 3 (dense): RMSNorm over each head's q and k, its own head size, optional biases and sliding window.

Knows nothing about files. Invariant: `attention_bias` means all four projections.
"""

from __future__ import annotations

from penstock.model.dense import Family, Traits, dense_spec, window_by_layer
from penstock.model.fields import Fields
from penstock.model.spec import DecoderSpec, QkNorm


def _spec(config: Fields) -> DecoderSpec:
    window, windowed = window_by_layer(config)
    bias = config.flag("attention_bias", False)
    traits = Traits(qkv_bias=bias, o_bias=bias, qk_norm=QkNorm.HEAD, window=window, windowed=windowed)
    return dense_spec(config, "qwen3", traits)


QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    _spec,
    defaults={"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768},
)
