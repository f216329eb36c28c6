"""Mixtral: Mistral's attention, every layer a mixture whose chosen experts' weights sum to one.

Knows nothing about files. Invariant: a config that leaves `sliding_window` out has none.
"""

from __future__ import annotations

from penstock.model.dense import Family, Traits, dense_spec
from penstock.model.fields import Fields
from penstock.model.mixture import COUNTS, read_mixture
from penstock.model.rope import RopeRule
from penstock.model.sources import HF_SOURCES, Part
from penstock.model.spec import DecoderSpec


def _spec(config: Fields) -> DecoderSpec:
    if config.get("layer_types") is not None:
        raise config.error("layer_types is not supported for mixtral.")
    window = config.optional_integer("sliding_window", high=2**31)
    mlp = read_mixture(config, config.integer("intermediate_size"), norm_topk=True)
    return dense_spec(config, "mixtral", Traits(window=window, rope=RopeRule(theta=1e6), mlp=lambda config, index: mlp))


# Its GGUF files declare the architecture "llama".
MIXTRAL = Family(
    "mixtral",
    "MixtralForCausalLM",
    _spec,
    sources=HF_SOURCES
    | {
        "router": (Part("block_sparse_moe.gate"), *HF_SOURCES["router"]),
        "experts.gate": (Part("block_sparse_moe.experts.{}.w1"), *HF_SOURCES["experts.gate"]),
        "experts.up": (Part("block_sparse_moe.experts.{}.w3"), *HF_SOURCES["experts.up"]),
        "experts.down": (Part("block_sparse_moe.experts.{}.w2"), *HF_SOURCES["experts.down"]),
    },
    defaults={
        "num_key_value_heads": 8,
        "num_experts_per_tok": 2,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
    },
    reads=frozenset(COUNTS),
)
