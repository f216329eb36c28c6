"""What the dense decoder families share: the walk from config fields to a spec, and their tensor names.

Knows nothing about any one family. Invariant: every field that is read here is checked; a field known to
change the answer that no family reads is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from penstock.core import limits
from penstock.model.fields import Fields, shown
from penstock.model.rope import parse_rope
from penstock.model.sources import GGUF_SOURCES, HF_SOURCES, Source
from penstock.model.spec import Activation, Attention, DecoderSpec, Layer, Mlp, QkNorm

HF_NAMES: Mapping[str, str] = {
    "embed": "model.embed_tokens",
    "final_norm": "model.norm",
    "head": "lm_head",
    "layers": "model.layers",
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
GGUF_NAMES: Mapping[str, str] = {
    "embed": "token_embd",
    "final_norm": "output_norm",
    "head": "output",
    "layers": "blk",
    "attn_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


@dataclass(frozen=True, slots=True)
class Family:
    """A family as data.

    Attributes:
        model_type: Hugging Face's name.
        architecture: class name that a generating checkpoint declares.
        spec: config → spec.
        gguf_architecture: `general.architecture` of its GGUF files, or None where another family's is used.
        gguf_permuted: GGUF stores the rows of q and k with rotary pairs side by side.
        names, gguf_names: place → stored name, without layer prefix and suffix.
        sources, gguf_sources: place → the ways in which it is stored, where `names` does not have it.
    """

    model_type: str
    architecture: str
    spec: Callable[[Fields], DecoderSpec]
    gguf_architecture: str | None
    gguf_permuted: bool = False
    names: Mapping[str, str] = field(default_factory=lambda: HF_NAMES)
    gguf_names: Mapping[str, str] = field(default_factory=lambda: GGUF_NAMES)
    sources: Mapping[str, tuple[Source, ...]] = field(default_factory=lambda: HF_SOURCES)
    gguf_sources: Mapping[str, tuple[Source, ...]] = field(default_factory=lambda: GGUF_SOURCES)


@dataclass(frozen=True, slots=True)
class Traits:
    """What distinguishes one dense family's config from another's, already resolved.

    Attributes:
        num_kv_heads, head_dim: where the config leaves them out; None is num_heads, and hidden / num_heads.
        qkv_bias, o_bias, mlp_bias: projections with a bias.
        qk_norm: RMSNorm of q and k before RoPE.
        window: tokens a query of a windowed layer sees, or None.
        windowed: whether layer i is windowed.
    """

    num_kv_heads: int | None = None
    head_dim: int | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: QkNorm = QkNorm.NONE
    window: int | None = None
    windowed: Callable[[int], bool] = lambda index: True


_ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
}

# Field → values under which it changes nothing. Other values describe a model that these families are not.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "alibi": (False,),
    "attention_chunk_size": (),
    "attention_multiplier": (1,),
    "attn_logit_softcapping": (0,),
    "compression_config": (),
    "embedding_multiplier": (1,),
    "final_logit_softcapping": (0,),
    "is_encoder_decoder": (False,),
    "kv_lora_rank": (),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "n_routed_experts": (0,),
    "no_rope_layers": ([],),
    "num_experts": (0,),
    "num_local_experts": (0, 1),
    "q_lora_rank": (),
    "qk_layernorm": (False,),
    "quantization": (),
    "quantization_config": (),
    "query_pre_attn_scalar": (),
    "residual_multiplier": (1,),
    "rotary_pct": (1,),
    "use_qk_norm": (False,),
}


def refuse_unknown(config: Fields, family: Family) -> None:
    """Passes when nothing in the config describes a model that the family is not.

    Raises:
        ModelFileError: naming the field and its value.
    """
    declared = config.get("architectures") or []
    if not isinstance(declared, list) or not all(isinstance(name, str) for name in declared):
        raise config.error(f"architectures is {shown(declared)}; a list of names is needed.")
    if declared and family.architecture.lower() not in [name.lower() for name in declared]:
        raise config.error(f"unknown architecture {shown(declared[0])}.", hint=f"{family.architecture} is served.")
    for name, neutral in _NEUTRAL.items():
        value = config.get(name)
        if value is not None and value not in neutral:
            raise config.error(f"{name} is {shown(value)}, which is not supported for {family.model_type}.")


def dense_spec(config: Fields, model_type: str, traits: Traits) -> DecoderSpec:
    """The spec of a dense decoder: gated feed-forward, RMSNorm before each branch, rotary positions.

    Raises:
        ModelFileError: a field is missing, of a wrong type, out of range or contradicts another.
    """
    hidden = config.integer("hidden_size")
    max_tokens = config.integer("max_position_embeddings", 2048, high=2**31)
    num_layers = config.integer("num_hidden_layers", high=limits.MAX_LAYERS)
    attention = _attention(config, traits, max_tokens)
    mlp = Mlp(config.integer("intermediate_size"), _activation(config), bias=traits.mlp_bias)
    full = Layer(attention, mlp)
    windowed = full if traits.window is None else Layer(replace(attention, window=traits.window), mlp)
    return DecoderSpec(
        family=model_type,
        hidden=hidden,
        vocab=config.integer("vocab_size", high=limits.MAX_VOCAB),
        layers=tuple(windowed if traits.windowed(index) else full for index in range(num_layers)),
        norm_eps=config.positive("rms_norm_eps", 1e-6),
        max_tokens=max_tokens,
        tied_head=config.flag("tie_word_embeddings", False),
    )


def _attention(config: Fields, traits: Traits, max_tokens: int) -> Attention:
    hidden, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    num_kv_heads = config.integer("num_key_value_heads", traits.num_kv_heads or num_heads)
    if num_heads % num_kv_heads:
        raise config.error(f"{num_heads} attention heads are no multiple of {num_kv_heads} key-value heads.")
    head_dim = config.optional_integer("head_dim") or traits.head_dim
    if head_dim is None:
        if hidden % num_heads:
            raise config.error(f"hidden_size {hidden} is no multiple of {num_heads} attention heads.")
        head_dim = hidden // num_heads
    if num_heads * head_dim > limits.MAX_HIDDEN:
        raise config.error(f"{num_heads} heads of {head_dim} exceed the limit of {limits.MAX_HIDDEN} channels.")
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=parse_rope(config, head_dim, max_tokens),
        qk_norm=traits.qk_norm,
        q_bias=traits.qkv_bias,
        k_bias=traits.qkv_bias,
        v_bias=traits.qkv_bias,
        o_bias=traits.o_bias,
    )


def _activation(config: Fields) -> Activation:
    name = config.text("hidden_act", "silu")
    if name not in _ACTIVATIONS:
        raise config.error(f"unknown activation hidden_act {shown(name)}.", hint=f"known: {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[name]


def window_by_layer(config: Fields) -> tuple[int | None, Callable[[int], bool]]:
    """The window and which layers have it, as the qwen families declare them.

    `use_sliding_window` turns it on; `layer_types` names each layer's kind, else the layers from
    `max_window_layers` on are windowed.

    Raises:
        ModelFileError: an unknown layer type or a list of the wrong length.
    """
    window = config.optional_integer("sliding_window", high=2**31) if config.flag("use_sliding_window", False) else None
    kinds = config.get("layer_types")
    if kinds is None:
        first = config.integer("max_window_layers", 28, low=0)
        return window, lambda index: index >= first
    count = config.integer("num_hidden_layers", high=limits.MAX_LAYERS)
    if not isinstance(kinds, list) or len(kinds) != count:
        raise config.error(f"layer_types must be a list of {count} entries.")
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise config.error(f"unknown layer type {shown(kind)}.")
    if window is None and "sliding_attention" in kinds:
        raise config.error("layer_types names sliding_attention and sliding_window is off.")
    return window, lambda index: kinds[index] == "sliding_attention"
