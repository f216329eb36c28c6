"""A checkpoint's architecture as frozen facts, normalised once, the same for every family and every backend.

Knows nothing about files, tensor names or kernels. Invariant: a backend that runs every combination of these fields
runs every family; a family that needs more adds a field here, never a branch on its name. Norms are RMSNorm; a family
with another kind adds a field for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class RopeKind(str, Enum):
    """How rotary frequencies are made from (theta, dims, scaling); tables are made at load from max_model_tokens."""

    DEFAULT = "default"
    LINEAR = "linear"
    DYNAMIC = "dynamic"
    LLAMA3 = "llama3"
    YARN = "yarn"
    LONGROPE = "longrope"


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding of a layer.

    Attributes:
        theta: base.
        dims: rotated dimensions of each head, from the first; < head_dim is partial rotary.
        kind: frequency rule.
        scaling: the rule's parameters as sorted (name, value) pairs, e.g. ("factor", 8.0).
        short_factors, long_factors: longrope's per-frequency factors; () otherwise.
        original_tokens: context length before scaling; 0 where the rule needs none.
        interleaved: pairs are (2i, 2i+1) instead of (i, i + dims/2).
    """

    theta: float
    dims: int
    kind: RopeKind = RopeKind.DEFAULT
    scaling: tuple[tuple[str, float], ...] = ()
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    original_tokens: int = 0
    interleaved: bool = False


class QkNorm(str, Enum):
    """RMSNorm of queries and keys before RoPE: none, over each head, or over all heads of a token together."""

    NONE = ""
    HEAD = "head"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention of one layer. Latent attention, when it comes, is a second class beside this one.

    Attributes:
        num_heads, num_kv_heads, head_dim: shapes; num_heads is a multiple of num_kv_heads.
        scale: multiplies q·k.
        rope: None for layers without positions.
        window: tokens a query sees including itself, or None.
        softcap: tanh cap of the scores, 0 is off.
        qk_norm: RMSNorm of q and k before RoPE.
        qkv_clip: limit of q, k and v after their norms, before RoPE; 0 is none.
        q_bias, k_bias, v_bias, o_bias: projections with a bias.
        sinks: one learned logit a head joins the softmax's denominator.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None
    window: int | None = None
    softcap: float = 0.0
    qk_norm: QkNorm = QkNorm.NONE
    qkv_clip: float = 0.0
    q_bias: bool = False
    k_bias: bool = False
    v_bias: bool = False
    o_bias: bool = False
    sinks: bool = False


class Activation(str, Enum):
    """The gate's activation; SWIGLU_OAI is gate · sigmoid(1.702 · gate) with 1 added to up (gpt-oss)."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"
    GELU = "gelu"
    SWIGLU_OAI = "swiglu_oai"


@dataclass(frozen=True, slots=True)
class Mlp:
    """Gated feed-forward: down(activation(gate(x)) * up(x)), or a mixture of such experts.

    In a mixture the router's logits go through a softmax over all experts; the highest are chosen (ties to the lower
    index) and their outputs summed in the order of their rank.

    Attributes:
        intermediate: width (of one expert in a mixture).
        activation: of the gate.
        bias: all three projections carry one, each expert's too.
        num_experts, experts_per_token: a mixture when num_experts > 0.
        norm_topk: router weights of the chosen experts sum to one.
        router_bias: the router's projection carries a bias.
        shared_intermediate: width of a shared expert that every token takes, 0 is none.
        shared_gate: the shared expert's output is multiplied by the sigmoid of a learned projection.
        clamp: limit of gate (from above) and up (both sides) before the product, 0 is none.
    """

    intermediate: int
    activation: Activation = Activation.SILU
    bias: bool = False
    num_experts: int = 0
    experts_per_token: int = 0
    norm_topk: bool = False
    router_bias: bool = False
    shared_intermediate: int = 0
    shared_gate: bool = False
    clamp: float = 0.0


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer: x += attention(norm(x)); x += mlp(norm(x)), with norms after each branch where post_norms."""

    attention: Attention
    mlp: Mlp
    pre_norms: bool = True
    post_norms: bool = False


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A decoder-only transformer.

    Attributes:
        family: Hugging Face model_type, for people.
        hidden: residual width.
        vocab: rows of embedding and head.
        layers: in order.
        norm_eps: RMSNorm epsilon.
        norm_offset: added to every norm weight (gemma: 1.0).
        embed_scale: multiplies embeddings.
        residual_scale: multiplies each branch before it is added.
        logit_scale: multiplies the logits.
        logit_softcap: tanh cap of the logits, 0 is off.
        tied_head: the head is the embedding.
        max_tokens: context length that the checkpoint declares.
    """

    family: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    norm_eps: float
    max_tokens: int
    norm_offset: float = 0.0
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float = 0.0
    tied_head: bool = False
    head_bias: bool = False
