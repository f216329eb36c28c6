"""What the dense decoder families share: the walk from config fields to a spec, and their tensor names.

Knows nothing about any one family. Invariant: every field that is read here is checked; a field known to
change the answer that no family reads is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from penstock.core import limits
from penstock.model.fields import Fields, shown
from penstock.model.rope import PLAIN_ROPE, RopeRule, parse_rope
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
        gguf_permuted: GGUF stores the rows of q and k with rotary pairs side by side.
        names, gguf_names: place → stored name, without layer prefix and suffix.
        sources, gguf_sources: place → the ways in which it is stored, where `names` does not have it.
        defaults: fields that have the family's own value where a config leaves them out (null is not left out).
        reads: fields of `NEUTRAL` that the family reads itself.
        canonical: stored name → the name looked for, None for a tensor of a part that is not served.
    """

    model_type: str
    architecture: str
    spec: Callable[[Fields], DecoderSpec]
    gguf_permuted: bool = False
    names: Mapping[str, str] = field(default_factory=lambda: HF_NAMES)
    gguf_names: Mapping[str, str] = field(default_factory=lambda: GGUF_NAMES)
    sources: Mapping[str, tuple[Source, ...]] = field(default_factory=lambda: HF_SOURCES)
    gguf_sources: Mapping[str, tuple[Source, ...]] = field(default_factory=lambda: GGUF_SOURCES)
    defaults: Mapping[str, object] = field(default_factory=dict)
    reads: frozenset[str] = frozenset()
    canonical: Callable[[str], str | None] = lambda name: name


@dataclass(frozen=True, slots=True)
class Traits:
    """What distinguishes one family's layers from another's, already resolved.

    Attributes:
        qkv_bias, o_bias, mlp_bias: projections with a bias.
        qk_norm: RMSNorm of q and k before RoPE.
        scale: multiplies q·k; None is 1 / √head_dim.
        softcap: tanh cap of the scores, 0 is off.
        window: tokens a query of a windowed layer sees, or None.
        windowed: whether layer i is windowed.
        pre_norms, post_norms: norms before and after each branch.
        activation: the gate's, where `hidden_act` does not name it.
        rope: what the family allows and assumes.
        mlp: the feed-forward of layer i, where it is not the plain one that the config describes.
        layer: layer i as the family has it, of the layer that the other traits make.
    """

    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: QkNorm = QkNorm.NONE
    scale: float | None = None
    softcap: float = 0.0
    window: int | None = None
    windowed: Callable[[int], bool] = lambda index: True
    pre_norms: bool = True
    post_norms: bool = False
    activation: Activation | None = None
    rope: RopeRule = PLAIN_ROPE
    mlp: Callable[[Fields, int], Mlp] | None = None
    layer: Callable[[int, Layer], Layer] = lambda index, layer: layer


_ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
}

# Field → values under which it changes nothing. Other values describe a model that the family is not, unless it reads
# the field itself (`Family.reads`).
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "alibi": (False,),
    "attention_chunk_size": (),
    "attention_multiplier": (1,),
    "attn_logit_softcapping": (0,),
    "clip_qkv": (),
    "compression_config": (),
    "embedding_multiplier": (1,),
    "final_logit_softcapping": (0,),
    "hidden_activation": (),
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
    "rope_local_base_freq": (),
    "rotary_pct": (1,),
    "sliding_window_pattern": (),
    "use_bidirectional_attention": (False,),
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
    for name, neutral in NEUTRAL.items():
        value = config.get(name)
        if value is not None and name not in family.reads and value not in neutral:
            raise config.error(f"{name} is {_named(value)}, which is not supported for {family.model_type}.")


def _named(value: object) -> str:
    """A value in a message; a quantization by its method, which says more than its first eighty characters."""
    method = value.get("quant_method") if isinstance(value, dict) else None
    return shown(value if method is None else method)


def dense_spec(config: Fields, model_type: str, traits: Traits) -> DecoderSpec:
    """The spec of a decoder: RMSNorm, gated feed-forward, rotary positions, as the family's traits shape them.

    What the whole model has beyond that (scales, caps, a norm's offset) the family sets in what is returned.

    Raises:
        ModelFileError: a field is missing, of a wrong type, out of range or contradicts another.
    """
    max_tokens = config.integer("max_position_embeddings", 2048, high=2**31)
    num_layers = config.integer("num_hidden_layers", high=limits.MAX_LAYERS)
    attention = _attention(config, traits, max_tokens)
    own_mlp = None if traits.mlp else _mlp(config, traits)

    @cache
    def shared(layer: Layer) -> Layer:
        return layer  # equal layers are one object

    def made(index: int) -> Layer:
        window = traits.window if traits.window is not None and traits.windowed(index) else None
        mlp = own_mlp if traits.mlp is None else traits.mlp(config, index)
        assert mlp is not None
        plain = Layer(replace(attention, window=window), mlp, traits.pre_norms, traits.post_norms)
        return shared(traits.layer(index, plain))

    return DecoderSpec(
        family=model_type,
        hidden=config.integer("hidden_size"),
        vocab=config.integer("vocab_size", high=limits.MAX_VOCAB),
        layers=tuple(made(index) for index in range(num_layers)),
        norm_eps=config.positive("rms_norm_eps", 1e-6),
        max_tokens=max_tokens,
        tied_head=config.flag("tie_word_embeddings", False),
    )


def _mlp(config: Fields, traits: Traits) -> Mlp:
    named = activation(config) if traits.activation is None else traits.activation
    return Mlp(config.integer("intermediate_size"), named, bias=traits.mlp_bias)


def _attention(config: Fields, traits: Traits, max_tokens: int) -> Attention:
    num_heads = config.integer("num_attention_heads")
    num_kv_heads = config.integer("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise config.error(f"{num_heads} attention heads are no multiple of {num_kv_heads} key-value heads.")
    size = head_size(config)
    if num_heads * size > limits.MAX_HIDDEN:
        raise config.error(f"{num_heads} heads of {size} exceed the limit of {limits.MAX_HIDDEN} channels.")
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=size,
        scale=size**-0.5 if traits.scale is None else traits.scale,
        rope=parse_rope(config, size, max_tokens, traits.rope),
        softcap=traits.softcap,
        qk_norm=traits.qk_norm,
        q_bias=traits.qkv_bias,
        k_bias=traits.qkv_bias,
        v_bias=traits.qkv_bias,
        o_bias=traits.o_bias,
    )


def head_size(config: Fields) -> int:
    """Channels of a head: as declared, else the hidden size over the heads.

    Raises:
        ModelFileError: the heads do not divide the hidden size.
    """
    declared = config.optional_integer("head_dim")
    if declared is not None:
        return declared
    hidden, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if hidden % num_heads:
        raise config.error(f"hidden_size {hidden} is no multiple of {num_heads} attention heads.")
    return hidden // num_heads


def activation(config: Fields, name: str = "hidden_act") -> Activation:
    """The gate's activation that a field names.

    Raises:
        ModelFileError: none is known by that name.
    """
    value = config.text(name, "silu")
    if value not in _ACTIVATIONS:
        raise config.error(f"unknown activation {name} {shown(value)}.", hint=f"known: {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[value]


def softcap(config: Fields, name: str) -> float:
    """The tanh cap that a field gives, 0 where it is null or absent.

    Raises:
        ModelFileError: another type, or not above zero.
    """
    return 0.0 if config.get(name) is None else config.positive(name)


def switched_window(config: Fields) -> int | None:
    """`sliding_window`, which counts only where `use_sliding_window` turns it on.

    Raises:
        ModelFileError: another type or out of range.
    """
    return config.optional_integer("sliding_window", high=2**31) if config.flag("use_sliding_window", False) else None


def window_by_layer(config: Fields) -> tuple[int | None, Callable[[int], bool]]:
    """The window and which layers have it, as the qwen families declare them.

    `use_sliding_window` turns it on; `layer_types` names each layer's kind, else the layers from
    `max_window_layers` on are windowed.

    Raises:
        ModelFileError: an unknown layer type or a list of the wrong length.
    """
    window, first = switched_window(config), config.integer("max_window_layers", 28, low=0)
    return window, windowed_layers(config, window, lambda index: index >= first)


def windowed_layers(config: Fields, window: int | None, default: Callable[[int], bool]) -> Callable[[int], bool]:
    """Whether layer i is windowed: as `layer_types` names it, else as `default` says.

    Raises:
        ModelFileError: an unknown layer type, a list of the wrong length, or a windowed layer without a window.
    """
    kinds = config.get("layer_types")
    if kinds is None:
        return default
    count = config.integer("num_hidden_layers", high=limits.MAX_LAYERS)
    if not isinstance(kinds, list) or len(kinds) != count:
        raise config.error(f"layer_types must be a list of {count} entries.")
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise config.error(f"unknown layer type {shown(kind)}.")
    if window is None and "sliding_attention" in kinds:
        raise config.error("layer_types names sliding_attention and sliding_window is off.")
    return lambda index: kinds[index] == "sliding_attention"
