"""The oracle: a decoder in plain numpy float64, one request, no cache, full recompute, dense attention.

Also builds random specs and weights small enough to be recomputed from scratch at every step.
"""

import math

import numpy as np

from penstock.formats import RawTensor, Storage
from penstock.model import (
    Activation,
    Attention,
    DecoderSpec,
    Layer,
    Mlp,
    QkNorm,
    Rope,
    WeightMap,
    WeightRef,
    places,
    rope_frequencies,
)


def rms_norm(x, weight, eps, offset=0.0):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * (weight + offset)


def rotate(x, rope, max_model_tokens):
    """x: [T, H, D] rotated by its position."""
    frequencies, factor = rope_frequencies(rope, max_model_tokens)
    angles = np.arange(len(x))[:, None, None] * frequencies
    cos, sin = np.cos(angles) * factor, np.sin(angles) * factor
    out = x.copy()
    half = rope.dims // 2
    first, second = (
        (np.s_[..., 0 : rope.dims : 2], np.s_[..., 1 : rope.dims : 2])
        if rope.interleaved
        else (
            np.s_[..., :half],
            np.s_[..., half : rope.dims],
        )
    )
    out[first] = x[first] * cos - x[second] * sin
    out[second] = x[second] * cos + x[first] * sin
    return out


def activate(x, kind):
    if kind is Activation.SILU:
        return x / (1 + np.exp(-x))
    if kind is Activation.GELU_TANH:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if kind is Activation.SWIGLU_OAI:
        return x / (1 + np.exp(-1.702 * x))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attend(q, k, v, att, sinks=None):
    """q: [T, H, D], k and v: [T, K, D]; dense causal attention -> [T, H * D]."""
    count, heads = len(q), att.num_heads
    k = np.repeat(k, heads // att.num_kv_heads, axis=1)
    v = np.repeat(v, heads // att.num_kv_heads, axis=1)
    scores = np.einsum("qhd,khd->hqk", q, k) * att.scale
    if att.softcap:
        scores = np.tanh(scores / att.softcap) * att.softcap
    ago = np.arange(count)[:, None] - np.arange(count)[None, :]
    scores = np.where((ago < 0) | (ago >= (att.window or count + 1)), -np.inf, scores)
    if sinks is not None:
        scores = np.concatenate([scores, np.broadcast_to(sinks[:, None, None], (heads, count, 1))], axis=2)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights[:, :, :count], v).reshape(count, -1)


def round_int8(x):
    """Rows as group codes see them: 32 inputs at a time, rounded to 127 steps of the greatest."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    scale = np.abs(blocks).max(-1, keepdims=True) / 127
    return (np.rint(np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale > 0)) * scale).reshape(x.shape)


def gated_mlp(x, at, mlp, project):
    gate, up = project(x, at + "gate"), project(x, at + "up")
    if mlp.clamp:
        gate, up = np.minimum(gate, mlp.clamp), np.clip(up, -mlp.clamp, mlp.clamp)
    if mlp.activation is Activation.SWIGLU_OAI:
        up = up + 1
    return project(activate(gate, mlp.activation) * up, at + "down")


def softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def mixture(x, at, mlp, project):
    """Every token by itself: its best experts one after the other, then the shared one."""
    logits = project(x, at + "router")
    chosen = np.argsort(-logits, axis=-1, kind="stable")[:, : mlp.experts_per_token]
    shares = np.take_along_axis(softmax(logits), chosen, axis=-1)
    if mlp.norm_topk:
        shares = shares / shares.sum(-1, keepdims=True)
    out = np.zeros_like(x)
    for token in range(len(x)):
        for expert, share in zip(chosen[token], shares[token], strict=True):
            out[token] += share * gated_mlp(x[token : token + 1], f"{at}experts.{expert}.", mlp, project)[0]
    if mlp.shared_intermediate:
        shared = gated_mlp(x, at + "shared.", mlp, project)
        out += shared / (1 + np.exp(-project(x, at + "shared.router"))) if mlp.shared_gate else shared
    return out


def store_int8(x):
    """Keys or values [T, K, D] as an int8 KV gives them back: a scale for each token and head."""
    scale = np.abs(x).max(-1, keepdims=True) / 127
    return np.rint(x / scale) * scale


def reference_logits(spec, weights, tokens, max_model_tokens, rounded=lambda x: x, stored=lambda x: x):
    """weights: place -> array. Returns logits [T, V] f64 of every position.

    `rounded` is applied to every input but the routers', `stored` to the rotated keys and to the values.
    """
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}

    def project(x, place):
        return (x if place.endswith("router") else rounded(x)) @ w[place].T + w.get(place + ".bias", 0.0)

    def norm(x, place):
        return rms_norm(x, w[place], spec.norm_eps, spec.norm_offset)

    x = w["embed"][np.asarray(tokens)] * spec.embed_scale
    for index, layer in enumerate(spec.layers):
        at, att = f"layers.{index}.", layer.attention
        h = norm(x, at + "attn_norm") if layer.pre_norms else x
        q, k, v = (project(h, at + name) for name in "qkv")
        if att.qk_norm is QkNorm.ALL:
            q, k = norm(q, at + "q_norm"), norm(k, at + "k_norm")
        q, k, v = (rows.reshape(len(x), -1, att.head_dim) for rows in (q, k, v))
        if att.qk_norm is QkNorm.HEAD:
            q, k = norm(q, at + "q_norm"), norm(k, at + "k_norm")
        if att.qkv_clip:
            q, k, v = (np.clip(rows, -att.qkv_clip, att.qkv_clip) for rows in (q, k, v))
        if att.rope is not None:
            q, k = rotate(q, att.rope, max_model_tokens), rotate(k, att.rope, max_model_tokens)
        branch = project(attend(q, stored(k), stored(v), att, w.get(at + "sinks")), at + "o")
        x = x + spec.residual_scale * (norm(branch, at + "attn_post_norm") if layer.post_norms else branch)
        h = norm(x, at + "mlp_norm") if layer.pre_norms else x
        branch = (mixture if layer.mlp.num_experts else gated_mlp)(h, at, layer.mlp, project)
        x = x + spec.residual_scale * (norm(branch, at + "mlp_post_norm") if layer.post_norms else branch)
    x = norm(x, "final_norm")
    head = w["embed"] if spec.tied_head else w["head"]
    logits = (rounded(x) @ head.T + w.get("head.bias", 0.0)) * spec.logit_scale
    return np.tanh(logits / spec.logit_softcap) * spec.logit_softcap if spec.logit_softcap else logits


def greedy(spec, weights, prompt, steps, max_model_tokens):
    """The forty-line server: one request, no cache, everything recomputed."""
    tokens = list(prompt)
    for _ in range(steps):
        tokens.append(int(np.argmax(reference_logits(spec, weights, tokens, max_model_tokens)[-1])))
    return tokens[len(prompt) :]


def make_spec(num_layers=2, **changes):
    """A small llama-like spec; `changes` go to the attention, mlp, layer or model field of that name."""

    def pick(cls, **defaults):
        return cls(**(defaults | {name: changes[name] for name in cls.__dataclass_fields__ if name in changes}))

    attention = pick(
        Attention, num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25, rope=Rope(theta=10000.0, dims=16), window=None
    )
    layer = pick(Layer, attention=attention, mlp=pick(Mlp, intermediate=96))
    return pick(
        DecoderSpec,
        family="test",
        hidden=64,
        vocab=131,
        layers=(layer,) * num_layers,
        norm_eps=1e-5,
        max_tokens=1024,
    )


def random_weights(spec, seed=0):
    """place -> f32 array; scaled so that scores and logits spread over several units."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in places(spec).items():
        scale = 1.0 if name == "embed" else 1.5 / math.sqrt(shape[-1]) if len(shape) == 2 else 0.2
        values = rng.standard_normal(shape) * scale
        out[name] = (values + (1.0 if name.endswith("norm") else 0.0)).astype(np.float32)
    return out


def weight_map(weights, storage=Storage.F32):
    """Arrays as the WeightMap of a float checkpoint: matrices in `storage`, vectors in F32."""
    refs = {}
    for name, value in weights.items():
        kind = storage if value.ndim == 2 else Storage.F32
        refs[name] = WeightRef(RawTensor(name, kind, value.shape, raw_bytes(value, kind)))
    return WeightMap(refs, "00" * 32, (), sum(ref.tensor.data.nbytes for ref in refs.values()))


def raw_bytes(value, storage):
    value = np.ascontiguousarray(value, dtype=np.float32)
    if storage is Storage.BF16:
        value = round_bf16(value).view(np.uint32) >> 16
        value = value.astype(np.uint16)
    elif storage is Storage.F16:
        value = value.astype(np.float16)
    return value.reshape(-1).view(np.uint8)


def round_bf16(value):
    """f32 rounded to the nearest bf16, ties to even, as f32."""
    bits = np.ascontiguousarray(value, dtype=np.float32).view(np.uint32)
    bits = bits + 0x7FFF + ((bits >> 16) & 1)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)
