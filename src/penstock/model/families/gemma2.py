"""Gemma 2: norms before and after each branch, capped scores and logits, every other layer windowed.

Knows nothing about files. Invariant: where a config names no layer types, even layers are windowed.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.model.dense import HF_NAMES, Family, Traits, activation, dense_spec, softcap, windowed_layers
from penstock.model.families.gemma import gemma_scaled
from penstock.model.fields import Fields
from penstock.model.spec import DecoderSpec

SANDWICH_NAMES = {
    **HF_NAMES,
    "attn_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def _spec(config: Fields) -> DecoderSpec:
    window = config.optional_integer("sliding_window", high=2**31)
    bias = config.flag("attention_bias", False)
    traits = Traits(
        qkv_bias=bias,
        o_bias=bias,
        scale=config.positive("query_pre_attn_scalar") ** -0.5,
        softcap=softcap(config, "attn_logit_softcapping"),
        window=window,
        windowed=windowed_layers(config, window, lambda index: index % 2 == 0),
        post_norms=True,
        activation=activation(config, "hidden_activation"),
    )
    spec = gemma_scaled(dense_spec(config, "gemma2", traits))
    return replace(spec, logit_softcap=softcap(config, "final_logit_softcapping"))


GEMMA2 = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    _spec,
    names=SANDWICH_NAMES,
    defaults={
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    reads=frozenset(
        {"hidden_activation", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"}
    ),
)
