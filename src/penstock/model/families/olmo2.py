"""OLMo 2: norms only after each branch, RMSNorm over all of a token's queries and over all of its keys.

Knows nothing about files. Invariant: `attention_bias` means all four projections.
"""

from __future__ import annotations

from penstock.model.dense import HF_NAMES, Family, Traits, dense_spec
from penstock.model.fields import Fields
from penstock.model.spec import DecoderSpec, QkNorm

_NAMES = {
    **{name: stored for name, stored in HF_NAMES.items() if name not in ("attn_norm", "mlp_norm")},
    "attn_post_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def _spec(config: Fields) -> DecoderSpec:
    bias = config.flag("attention_bias", False)
    traits = Traits(qkv_bias=bias, o_bias=bias, qk_norm=QkNorm.ALL, pre_norms=False, post_norms=True)
    return dense_spec(config, "olmo2", traits)


OLMO2 = Family(
    "olmo2",
    "Olmo2ForCausalLM",
    _spec,
    names=_NAMES,
    defaults={"rms_norm_eps": 1e-5},
)
