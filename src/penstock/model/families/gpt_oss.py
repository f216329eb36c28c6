"""gpt-oss: sinks, biases everywhere, windows in every other layer, mixtures of clamped experts, YaRN.

Knows nothing about files. Invariant: experts stored as MXFP4 stay MXFP4; no other quantization is read.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.model.dense import Family, Traits, dense_spec, windowed_layers
from penstock.model.experts import Transposed
from penstock.model.fields import Fields, shown
from penstock.model.mixture import COUNTS, read_mixture
from penstock.model.mxfp4 import Mxfp4
from penstock.model.rope import RopeRule
from penstock.model.sources import HF_SOURCES, Part, Source
from penstock.model.spec import Activation, DecoderSpec, Layer

_ALPHA = 1.702  # of SWIGLU_OAI
_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def _spec(config: Fields) -> DecoderSpec:
    _check(config)
    if not config.get("rope_parameters") and not config.get("rope_scaling"):
        config = Fields({**config.values, "rope_parameters": _YARN}, config.source)
    bias, window = config.flag("attention_bias", True), config.optional_integer("sliding_window", high=2**31)
    mlp = replace(
        read_mixture(config, config.integer("intermediate_size"), norm_topk=True),
        activation=Activation.SWIGLU_OAI,
        bias=True,
        router_bias=True,
        clamp=config.positive("swiglu_limit", 7.0),
    )

    def with_sinks(index: int, layer: Layer) -> Layer:
        return replace(layer, attention=replace(layer.attention, sinks=True))

    traits = Traits(
        qkv_bias=bias,
        o_bias=bias,
        window=window,
        windowed=windowed_layers(config, window, lambda index: index % 2 == 0),
        rope=RopeRule(theta=150000.0),
        mlp=lambda config, index: mlp,
        layer=with_sinks,
    )
    return dense_spec(config, "gpt_oss", traits)


def _check(config: Fields) -> None:
    alpha = config.optional_number("swiglu_alpha")
    if alpha is not None and alpha != _ALPHA:
        raise config.error(f"swiglu_alpha is {alpha:g}; only {_ALPHA} is supported.")
    named = config.get("experts_per_token")  # published beside num_experts_per_tok
    if named is not None and named != config.get("num_experts_per_tok"):
        raise config.error(f"experts_per_token is {shown(named)}; num_experts_per_tok is another.")
    quantization = config.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        if method != "mxfp4":
            raise config.error(f"quantization_config is {shown(method)}; only mxfp4 is supported for gpt_oss.")


def _stack(name: str, first: int = 0, step: int = 1) -> tuple[Source, ...]:
    return (Transposed(name, first, step), Mxfp4(name, first, step))


GPT_OSS = Family(
    "gpt_oss",
    "GptOssForCausalLM",
    _spec,
    sources=HF_SOURCES
    | {
        "router": (Part("mlp.router"),),
        "experts.gate": _stack("mlp.experts.gate_up_proj", 0, 2),
        "experts.up": _stack("mlp.experts.gate_up_proj", 1, 2),
        "experts.down": _stack("mlp.experts.down_proj"),
    },
    defaults={
        "head_dim": 64,
        "num_key_value_heads": 8,
        "num_experts_per_tok": 4,
        "sliding_window": 128,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
    },
    reads=frozenset((*COUNTS, "quantization_config")),
)
