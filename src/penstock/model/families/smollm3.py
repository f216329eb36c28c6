"""SmolLM 3: Llama's shape with layers that have no positions.

Knows nothing about files. Invariant: an entry of `no_rope_layers` that is 1 is a layer that rotates, 0 one that does
not; windows, where they are on, are those of the layers that do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from penstock.core import limits
from penstock.model.dense import Family, Traits, dense_spec, switched_window, windowed_layers
from penstock.model.fields import Fields, shown
from penstock.model.rope import RopeRule
from penstock.model.spec import DecoderSpec, Layer


def _spec(config: Fields) -> DecoderSpec:
    rotates = _rotating(config)
    window = switched_window(config)
    bias = config.flag("attention_bias", False)

    def without(index: int, layer: Layer) -> Layer:
        return layer if rotates(index) else replace(layer, attention=replace(layer.attention, rope=None))

    traits = Traits(
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=config.flag("mlp_bias", False),
        window=window,
        windowed=windowed_layers(config, window, lambda index: not rotates(index)),
        rope=RopeRule(theta=2e6),
        layer=without,
    )
    return dense_spec(config, "smollm3", traits)


def _rotating(config: Fields) -> Callable[[int], bool]:
    """Whether layer i has positions: as listed, else all but every `no_rope_layer_interval`th."""
    listed = config.get("no_rope_layers")
    if listed is None:
        interval = config.integer("no_rope_layer_interval", 4)
        return lambda index: (index + 1) % interval != 0
    count = config.integer("num_hidden_layers", high=limits.MAX_LAYERS)
    if not isinstance(listed, list) or len(listed) != count or any(entry not in (0, 1) for entry in listed):
        raise config.error(f"no_rope_layers is {shown(listed)}; a list of {count} zeros and ones is needed.")
    return lambda index: bool(listed[index])


SMOLLM3 = Family(
    "smollm3",
    "SmolLM3ForCausalLM",
    _spec,
    defaults={"num_key_value_heads": 4, "max_position_embeddings": 32768, "tie_word_embeddings": True},
    reads=frozenset({"no_rope_layers"}),
)
