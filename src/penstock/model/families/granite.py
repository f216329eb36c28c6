"""Granite (dense): Llama's shape with multipliers of embeddings, scores, branches and logits.

Knows nothing about files. Invariant: logits are divided by `logits_scaling`; the other three multiply.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.model.dense import Family, Traits, dense_spec
from penstock.model.fields import Fields
from penstock.model.spec import DecoderSpec


def _spec(config: Fields) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    traits = Traits(
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=config.flag("mlp_bias", False),
        scale=config.positive("attention_multiplier", 1.0),
    )
    return replace(
        dense_spec(config, "granite", traits),
        embed_scale=config.positive("embedding_multiplier", 1.0),
        residual_scale=config.positive("residual_multiplier", 1.0),
        logit_scale=1.0 / config.positive("logits_scaling", 1.0),
    )


GRANITE = Family(
    "granite",
    "GraniteForCausalLM",
    _spec,
    reads=frozenset({"attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"}),
)
