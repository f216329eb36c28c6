"""Llama (1 to 3.x and the many models saved under its name): dense, grouped-query attention, optional biases.

Knows nothing about files. Invariant: `attention_bias` means all four projections, `mlp_bias` all three.
"""

from __future__ import annotations

from penstock.model.dense import Family, Traits, dense_spec
from penstock.model.fields import Fields
from penstock.model.spec import DecoderSpec


def _spec(config: Fields) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    traits = Traits(qkv_bias=bias, o_bias=bias, mlp_bias=config.flag("mlp_bias", False))
    return dense_spec(config, "llama", traits)


LLAMA = Family("llama", "LlamaForCausalLM", _spec)
