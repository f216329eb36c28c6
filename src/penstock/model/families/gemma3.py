"""Gemma 3: text models, and the text part of those that also see images.

Gemma 2's norms with RMSNorm of q and k in place of capped scores; most layers are windowed and rotate with a base of
their own. Knows nothing about files. Invariant: text in, text out: nothing of the image path is read, and no token's
result depends on it.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.model.dense import (
    Family,
    Traits,
    activation,
    dense_spec,
    head_size,
    refuse_unknown,
    softcap,
    windowed_layers,
)
from penstock.model.families.gemma import gemma_scaled
from penstock.model.families.gemma2 import SANDWICH_NAMES
from penstock.model.fields import Fields, shown
from penstock.model.rope import RopeRule, parse_rope
from penstock.model.spec import DecoderSpec, Layer, QkNorm, Rope

_THETA, _LOCAL_THETA = 1e6, 1e4
_IMAGE_PARTS = ("vision_tower.", "multi_modal_projector.")


def _spec(config: Fields) -> DecoderSpec:
    window = config.optional_integer("sliding_window", high=2**31)
    pattern = config.integer("sliding_window_pattern")
    local = _local_rope(config)
    bias = config.flag("attention_bias", False)

    def own_rope(index: int, layer: Layer) -> Layer:
        attention = layer.attention
        return layer if attention.window is None else replace(layer, attention=replace(attention, rope=local))

    traits = Traits(
        qkv_bias=bias,
        o_bias=bias,
        qk_norm=QkNorm.HEAD,
        scale=config.positive("query_pre_attn_scalar") ** -0.5,
        window=window,
        windowed=windowed_layers(config, window, lambda index: (index + 1) % pattern != 0),
        post_norms=True,
        activation=activation(config, "hidden_activation"),
        rope=RopeRule(theta=_THETA, layer_type="full_attention"),
        layer=own_rope,
    )
    spec = gemma_scaled(dense_spec(config, "gemma3_text", traits))
    return replace(spec, logit_softcap=softcap(config, "final_logit_softcapping"))


def _local_rope(config: Fields) -> Rope:
    """The windowed layers' rotary embedding, which `rope_scaling` and `rope_theta` leave alone."""
    values = dict(config.values)
    values.pop("rope_scaling", None)
    values["rope_theta"] = config.positive("rope_local_base_freq", _LOCAL_THETA)
    max_tokens = config.integer("max_position_embeddings", high=2**31)
    rule = RopeRule(layer_type="sliding_attention")
    return parse_rope(Fields(values, config.source), head_size(config), max_tokens, rule)


def _text_part(config: Fields) -> DecoderSpec:
    values = config.get("text_config")
    if not isinstance(values, dict):
        raise config.error(f"text_config is {shown(values)}; an object is needed.")
    tied = {"tie_word_embeddings": config.flag("tie_word_embeddings", True)}
    text = Fields({**GEMMA3_TEXT.defaults, **values, **tied}, f"{config.source}: text_config")
    refuse_unknown(Fields({**text.values, "architectures": None}, text.source), GEMMA3_TEXT)
    return replace(_spec(text), family="gemma3")


def _text_name(name: str) -> str | None:
    """The name in a text model of a multimodal checkpoint's tensor; None for the image path."""
    bare = name.removeprefix("model.")
    if bare.startswith(_IMAGE_PARTS):
        return None
    if not bare.startswith("language_model."):
        return name
    bare = bare.removeprefix("language_model.")
    return bare if bare.startswith(("model.", "lm_head.")) else f"model.{bare}"


GEMMA3_TEXT = Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    _spec,
    names=SANDWICH_NAMES,
    defaults={
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": True,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    },
    reads=frozenset(
        {
            "hidden_activation",
            "query_pre_attn_scalar",
            "final_logit_softcapping",
            "rope_local_base_freq",
            "sliding_window_pattern",
        }
    ),
)
GEMMA3 = Family(
    "gemma3",
    "Gemma3ForConditionalGeneration",
    _text_part,
    names=SANDWICH_NAMES,
    canonical=_text_name,
)
