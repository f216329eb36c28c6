"""The oracle: a decoder in plain numpy float64, one request, no cache, full recompute, dense attention.

Also builds random specs and weights small enough to be recomputed from scratch at every step.
"""

import math

import numpy as np

from penstock.backend.cpu.rope import rope_frequencies
from penstock.formats import RawTensor, Storage
from penstock.model import Activation, Attention, DecoderSpec, Layer, Mlp, Rope, WeightMap, WeightRef


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


def reference_logits(spec, weights, tokens, max_model_tokens, rounded=lambda x: x):
    """weights: place -> array. Returns logits [T, V] f64 of every position; `rounded` is applied to every input."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}

    def project(x, place):
        return rounded(x) @ w[place].T + w.get(place + ".bias", 0.0)

    def norm(x, place):
        return rms_norm(x, w[place], spec.norm_eps, spec.norm_offset)

    x = w["embed"][np.asarray(tokens)] * spec.embed_scale
    for index, layer in enumerate(spec.layers):
        at, att = f"layers.{index}.", layer.attention
        h = norm(x, at + "attn_norm") if layer.pre_norms else x
        q, k, v = (project(h, at + name).reshape(len(x), -1, att.head_dim) for name in "qkv")
        if att.qk_norm:
            q, k = norm(q, at + "q_norm"), norm(k, at + "k_norm")
        if att.rope is not None:
            q, k = rotate(q, att.rope, max_model_tokens), rotate(k, att.rope, max_model_tokens)
        branch = project(attend(q, k, v, att, w.get(at + "sinks")), at + "o")
        x = x + spec.residual_scale * (norm(branch, at + "attn_post_norm") if layer.post_norms else branch)
        h = norm(x, at + "mlp_norm") if layer.pre_norms else x
        gate, up = project(h, at + "gate"), project(h, at + "up")
        if layer.mlp.clamp:
            gate, up = np.minimum(gate, layer.mlp.clamp), np.clip(up, -layer.mlp.clamp, layer.mlp.clamp)
        branch = project(activate(gate, layer.mlp.activation) * up, at + "down")
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


def places(spec):
    """Every place that the spec implies and its shape."""
    shapes = {"embed": (spec.vocab, spec.hidden), "final_norm": (spec.hidden,)}
    if not spec.tied_head:
        shapes["head"] = (spec.vocab, spec.hidden)
    if spec.head_bias:
        shapes["head.bias"] = (spec.vocab,)
    for index, layer in enumerate(spec.layers):
        at, att, mlp = f"layers.{index}.", layer.attention, layer.mlp
        q, kv = att.num_heads * att.head_dim, att.num_kv_heads * att.head_dim
        wide = {"q": (q, spec.hidden), "k": (kv, spec.hidden), "v": (kv, spec.hidden), "o": (spec.hidden, q)}
        wide |= {"gate": (mlp.intermediate, spec.hidden), "up": (mlp.intermediate, spec.hidden)}
        wide["down"] = (spec.hidden, mlp.intermediate)
        biased = dict.fromkeys(("gate", "up", "down"), mlp.bias) | {n: getattr(att, n + "_bias") for n in "qkvo"}
        shapes |= {at + name: shape for name, shape in wide.items()}
        shapes |= {f"{at}{name}.bias": wide[name][:1] for name, bias in biased.items() if bias}
        norms = (["attn_norm", "mlp_norm"] if layer.pre_norms else []) + (
            ["attn_post_norm", "mlp_post_norm"] if layer.post_norms else []
        )
        shapes |= {at + name: (spec.hidden,) for name in norms}
        if att.qk_norm:
            shapes |= {at + "q_norm": (att.head_dim,), at + "k_norm": (att.head_dim,)}
        if att.sinks:
            shapes[at + "sinks"] = (att.num_heads,)
    return shapes


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
