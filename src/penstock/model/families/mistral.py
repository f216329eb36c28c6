"""Mistral: Llama's shape without biases, its own head size, one sliding window for every layer.

Knows nothing about files. Invariant: a config that leaves `sliding_window` out has the family's default of 4,096; null
turns it off.
"""

from __future__ import annotations

from penstock.model.dense import Family, Traits, dense_spec
from penstock.model.fields import Fields
from penstock.model.spec import DecoderSpec

_DEFAULT_WINDOW = 4096
_DEFAULT_KV_HEADS = 8


def _spec(config: Fields) -> DecoderSpec:
    window = config.optional_integer("sliding_window", high=2**31)
    if "sliding_window" not in config.values:
        window = _DEFAULT_WINDOW
    if config.get("layer_types") is not None:
        raise config.error("layer_types is not supported for mistral.")
    return dense_spec(config, "mistral", Traits(num_kv_heads=_DEFAULT_KV_HEADS, window=window))


# GGUF files of Mistral models declare the architecture "llama".
MISTRAL = Family("mistral", "MistralForCausalLM", _spec, gguf_architecture=None)
