"""OLMoE: RMSNorm over all queries and all keys of a token, clipped q, k and v, a mixture in every layer.

Knows nothing about files. Invariant: a `clip_qkv` of null is none; zero, which would silence attention, is refused.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.model.dense import Family, Traits, dense_spec
from penstock.model.fields import Fields
from penstock.model.mixture import COUNTS, read_mixture
from penstock.model.spec import DecoderSpec, Layer, QkNorm


def _spec(config: Fields) -> DecoderSpec:
    for name in ("layer_types", "sliding_window"):
        if config.get(name) is not None:
            raise config.error(f"{name} is not supported for olmoe.")
    bias = config.flag("attention_bias", False)
    clip = 0.0 if config.get("clip_qkv") is None else config.positive("clip_qkv")
    mlp = read_mixture(config, config.integer("intermediate_size"), config.flag("norm_topk_prob", False))

    def clipped(index: int, layer: Layer) -> Layer:
        return replace(layer, attention=replace(layer.attention, qkv_clip=clip))

    traits = Traits(qkv_bias=bias, o_bias=bias, qk_norm=QkNorm.ALL, mlp=lambda config, index: mlp, layer=clipped)
    return dense_spec(config, "olmoe", traits)


OLMOE = Family(
    "olmoe",
    "OlmoeForCausalLM",
    _spec,
    defaults={"num_experts_per_tok": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
    reads=frozenset((*COUNTS, "clip_qkv")),
)
