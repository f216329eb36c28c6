"""Qwen 2 and 2.5: biases on q, k and v, an optional sliding window from some layer on.

Knows nothing about files. Invariant: the biases are the family's, whatever the config says.
"""

from __future__ import annotations

from penstock.model.dense import Family, Traits, dense_spec, window_by_layer
from penstock.model.fields import Fields
from penstock.model.spec import DecoderSpec


def _spec(config: Fields) -> DecoderSpec:
    window, windowed = window_by_layer(config)
    return dense_spec(config, "qwen2", Traits(qkv_bias=True, window=window, windowed=windowed))


QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    _spec,
    defaults={"num_key_value_heads": 32, "max_position_embeddings": 32768},
)
