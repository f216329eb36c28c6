"""Phi 3, 3.5 and 4: q, k and v in one tensor, gate and up in another, LongRoPE, partial rotation.

Knows nothing about files. Invariant: the original context length stands beside the scaling, not in it; one that is left
out is the family's default.
"""

from __future__ import annotations

from penstock.model.dense import Family, Traits, dense_spec
from penstock.model.fields import Fields
from penstock.model.rope import RopeRule
from penstock.model.sources import HF_SOURCES, fused
from penstock.model.spec import DecoderSpec, RopeKind

_RULES = (RopeKind.DEFAULT, RopeKind.LONGROPE)
# What the first configs called the rule.
_OLD_NAMES = (("su", RopeKind.LONGROPE), ("yarn", RopeKind.LONGROPE))


def _spec(config: Fields) -> DecoderSpec:
    window = config.optional_integer("sliding_window", high=2**31)
    traits = Traits(window=window, rope=RopeRule(partial=True, names=_OLD_NAMES))
    spec = dense_spec(config, "phi3", traits)
    rope = spec.layers[0].attention.rope
    if rope is not None and rope.kind not in _RULES:
        raise config.error(f"rope type {rope.kind.value} is not supported for phi3.")
    return spec


PHI3 = Family(
    "phi3",
    "Phi3ForCausalLM",
    _spec,
    sources={
        **HF_SOURCES,
        **fused("self_attn.qkv_proj", "q", "k", "v"),
        **fused("mlp.gate_up_proj", "gate", "up"),
    },
    defaults={"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
)
