"""Gemma (first generation): Llama's shape with scaled embeddings, norm weights counted from one, a tanh GELU gate.

Knows nothing about files. Invariant: the gate is the tanh approximation, which the first configs call `gelu`.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.model.dense import Family, Traits, dense_spec
from penstock.model.fields import Fields, shown
from penstock.model.spec import Activation, DecoderSpec

_TANH = "gelu_pytorch_tanh"


def gemma_scaled(spec: DecoderSpec) -> DecoderSpec:
    """The spec with what every Gemma has around its layers: norms offset by one, embeddings times √hidden."""
    return replace(spec, norm_offset=1.0, embed_scale=spec.hidden**0.5)


def _spec(config: Fields) -> DecoderSpec:
    for name, known in (("hidden_act", ("gelu", _TANH)), ("hidden_activation", (_TANH,))):
        if config.text(name, _TANH) not in known:
            raise config.error(f"{name} is {shown(config.get(name))}, which is not supported for gemma.")
    bias = config.flag("attention_bias", False)
    traits = Traits(qkv_bias=bias, o_bias=bias, activation=Activation.GELU_TANH)
    return gemma_scaled(dense_spec(config, "gemma", traits))


GEMMA = Family(
    "gemma",
    "GemmaForCausalLM",
    _spec,
    defaults={
        "num_key_value_heads": 16,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    reads=frozenset({"hidden_activation"}),
)
