"""Mistral and Ministral: Llama's shape without biases, its own head size, a sliding window.

Knows nothing about files. Invariant: a config that leaves `sliding_window` out has the family's default of 4,096, null
turns it off; Mistral's window is that of every layer, Ministral's that of the layers that `layer_types` names.
"""

from __future__ import annotations

from penstock.model.dense import Family, Traits, dense_spec, windowed_layers
from penstock.model.fields import Fields
from penstock.model.spec import DecoderSpec

_DEFAULTS = {"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 4096 * 32}


def _spec(config: Fields) -> DecoderSpec:
    window = config.optional_integer("sliding_window", high=2**31)
    spec = dense_spec(config, "mistral", Traits(window=window))
    windowed = windowed_layers(config, window, lambda index: window is not None)
    if any(windowed(index) != (window is not None) for index in range(len(spec.layers))):
        raise config.error(
            "layer_types with layers of two kinds is not supported for mistral.", hint="such models are of ministral."
        )
    return spec


def _ministral_spec(config: Fields) -> DecoderSpec:
    window = config.optional_integer("sliding_window", high=2**31)
    windowed = windowed_layers(config, window, lambda index: window is not None)
    return dense_spec(config, "ministral", Traits(window=window, windowed=windowed))


# GGUF files of Mistral models declare the architecture "llama".
MISTRAL = Family("mistral", "MistralForCausalLM", _spec, defaults=_DEFAULTS)
MINISTRAL = Family("ministral", "MinistralForCausalLM", _ministral_spec, defaults=_DEFAULTS)
