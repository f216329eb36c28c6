"""The native decoder against the float64 reference and against transformers, over every tier of this machine."""

import numpy as np
import pytest
from tests.backend.driver import Driver, logits_of_every_position, make_backend
from tests.backend.reference import (
    make_spec,
    random_weights,
    raw_bytes,
    reference_logits,
    round_bf16,
    store_int8,
    weight_map,
)

from penstock.backend.cpu import compute_tiers
from penstock.core import ModelFileError
from penstock.formats import Storage
from penstock.model import KV_COSTS, Activation, Layer, Mlp, QkNorm, Rope, RopeKind

TIERS = compute_tiers()
TOLERANCE = 2e-5  # of the greatest reference logit; f32 rounding over these small models is some 1e-6

VARIANTS = {
    "llama": {},
    "no grouping": {"num_kv_heads": 4},
    "one kv head": {"num_heads": 6, "num_kv_heads": 1},
    "qwen2": {"q_bias": True, "k_bias": True, "v_bias": True, "tied_head": True},
    "qwen3": {"qk_norm": QkNorm.HEAD, "head_dim": 32, "rope": Rope(1e6, 32)},
    "window": {"window": 20},
    "every bias": {"q_bias": True, "k_bias": True, "v_bias": True, "o_bias": True, "bias": True, "head_bias": True},
    "soft caps": {"softcap": 3.0, "logit_softcap": 5.0},
    "post norms, offset, scales": {
        "post_norms": True,
        "norm_offset": 1.0,
        "embed_scale": 2.0,
        "residual_scale": 0.5,
        "logit_scale": 0.7,
    },
    "post norms only": {"pre_norms": False, "post_norms": True},
    "sinks": {"sinks": True, "window": 33},
    "interleaved": {"head_dim": 8, "rope": Rope(1e4, 8, interleaved=True)},
    "partial rotary": {"rope": Rope(1e4, 6)},
    "no positions": {"rope": None},
    "odd sizes": {"head_dim": 20, "rope": Rope(1e4, 20), "hidden": 50, "intermediate": 37, "vocab": 71},
    "gelu": {"activation": Activation.GELU},
    "gelu tanh, clamp": {"activation": Activation.GELU_TANH, "clamp": 1.0},
    "norms of all heads": {"qk_norm": QkNorm.ALL, "pre_norms": False, "post_norms": True},
    "clipped": {"qk_norm": QkNorm.ALL, "qkv_clip": 0.4},
    "shifted swiglu": {"activation": Activation.SWIGLU_OAI, "clamp": 1.5, "bias": True},
    "interleaved, partial": {"rope": Rope(1e4, 10, interleaved=True)},
    "yarn": {
        "rope": Rope(1e4, 16, RopeKind.YARN, (("factor", 4.0),), original_tokens=64),
    },
}


def tokens_of(count, vocab, seed=1):
    return [int(t) for t in np.random.default_rng(seed).integers(0, vocab, count)]


def worst(got, reference):
    return float(np.abs(got - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_spec_agrees_with_the_reference(name):
    spec = make_spec(**VARIANTS[name])
    weights = random_weights(spec)
    tokens = tokens_of(90, spec.vocab)
    reference = reference_logits(spec, weights, tokens, 512)
    driver = Driver(make_backend(spec, weight_map(weights)))
    assert worst(logits_of_every_position(driver, 0, tokens), reference) < TOLERANCE
    driver.open(1, tokens)
    _, logits = driver.prefill(1, tokens, [40, 33])[-1]
    assert worst(logits[0], reference[-1]) < TOLERANCE


def test_control_a_perturbed_weight_fails_the_tolerance():
    spec = make_spec()
    weights = random_weights(spec)
    tokens = tokens_of(30, spec.vocab)
    reference = reference_logits(spec, weights, tokens, 512)
    moved = weights["layers.1.v"].copy()
    moved[3, 5] += 0.05
    driver = Driver(make_backend(spec, weight_map(weights | {"layers.1.v": moved})))
    assert worst(logits_of_every_position(driver, 0, tokens), reference) > TOLERANCE


def test_long_sequences_cross_splits():
    spec = make_spec(num_layers=1)
    weights = random_weights(spec)
    tokens = tokens_of(540, spec.vocab)
    reference = reference_logits(spec, weights, tokens, 600)
    backend = make_backend(spec, weight_map(weights), max_model_tokens=600)
    driver = Driver(backend)
    driver.open(0, tokens)
    _, logits = driver.prefill(0, tokens, [256, 1, 255, 1])[-1]
    assert worst(logits[0], reference[-1]) < TOLERANCE


@pytest.mark.parametrize("storage", [Storage.F32, Storage.BF16, Storage.F16])
def test_weight_storage_kinds(storage):
    spec = make_spec(tied_head=True)
    weights = random_weights(spec)
    stored = {}
    for name, value in weights.items():
        if value.ndim == 2 and storage is Storage.BF16:
            stored[name] = round_bf16(value)
        elif value.ndim == 2 and storage is Storage.F16:
            stored[name] = raw_bytes(value, storage).view(np.float16).astype(np.float32).reshape(value.shape)
        else:
            stored[name] = value
    tokens = tokens_of(20, spec.vocab)
    driver = Driver(make_backend(spec, weight_map(weights, storage)))
    got = logits_of_every_position(driver, 0, tokens)
    assert worst(got, reference_logits(spec, stored, tokens, 512)) < TOLERANCE


def test_auto_kv_type_follows_the_weights():
    spec = make_spec()
    weights = random_weights(spec)
    assert make_backend(spec, weight_map(weights), kv_type="auto").kv_type == "f32"
    assert make_backend(spec, weight_map(weights, Storage.BF16), kv_type="auto").kv_type == "bf16"


@pytest.mark.parametrize("kv_type", KV_COSTS)
@pytest.mark.parametrize("head_dim", [16, 80])
def test_pages_have_the_bytes_of_their_tokens(kv_type, head_dim):
    spec = make_spec(head_dim=head_dim)
    backend = make_backend(spec, weight_map(random_weights(spec)), kv_type=kv_type)
    a_token = 2 * 2 * 2 * {"f32": 4 * head_dim, "bf16": 2 * head_dim, "int8": head_dim + 4}[kv_type]
    assert backend.kv_groups[0].bytes_per_page == 16 * a_token


STORED = {"bf16": lambda x: round_bf16(x.astype(np.float32)).astype(np.float64), "int8": store_int8}


@pytest.mark.parametrize("kv_type", STORED)
@pytest.mark.parametrize(
    "changes", [{}, {"head_dim": 80}, {"head_dim": 24, "window": 40, "sinks": True}, {"softcap": 3.0, "num_heads": 6}]
)
def test_keys_and_values_are_attended_to_as_stored(kv_type, changes):
    """Those of the own chunk too. The reference's values differ in the last bits, and so does the odd rounding."""
    spec = make_spec(**changes)
    weights, tokens = random_weights(spec), tokens_of(60, spec.vocab)
    driver = Driver(make_backend(spec, weight_map(weights), kv_type=kv_type))
    driver.open(0, tokens[:1])
    row = driver.row(0, 0, tokens, num_drafts=len(tokens) - 1)  # drafts have logits each
    found = driver.step(row, logits=True)[1]
    rounding = worst(found, reference_logits(spec, weights, tokens, 512, stored=STORED[kv_type]))
    assert rounding < 1e-3
    assert worst(found, reference_logits(spec, weights, tokens, 512)) > 2e-3  # control: unrounded


@pytest.mark.parametrize("threads", [1, 2])
def test_every_tier_gives_the_same_bits(threads):
    spec = make_spec(qk_norm=QkNorm.HEAD, window=40, activation=Activation.GELU_TANH)
    weights = weight_map(random_weights(spec))
    tokens = tokens_of(70, spec.vocab)
    bits = []
    for tier in TIERS:
        for kv_type in KV_COSTS:
            driver = Driver(make_backend(spec, weights, isa=tier, threads=threads, kv_type=kv_type))
            driver.open(0, tokens)
            bits.append((kv_type, driver.prefill(0, tokens, [64])[-1][1].tobytes()))
    assert len(set(bits)) == 3


@pytest.mark.parametrize("change", [{"qk_norm": QkNorm.HEAD}, {"qk_norm": QkNorm.ALL, "qkv_clip": 0.5}])
def test_control_norms_and_limits_are_seen(change):
    """The same weights run without what the oracle has."""
    spec, plain = make_spec(**({"qk_norm": QkNorm.ALL} | change)), make_spec(qk_norm=QkNorm.ALL)
    if spec.layers[0].attention.qk_norm is QkNorm.HEAD:
        plain = make_spec()
    weights, tokens = random_weights(spec), tokens_of(20, spec.vocab)
    driver = Driver(make_backend(plain, weight_map(weights)))
    assert worst(logits_of_every_position(driver, 0, tokens), reference_logits(spec, weights, tokens, 512)) > 1e-3


IMPOSSIBLE = {
    "num_experts is -1": {"num_experts": -1},
    "num_experts is 1,000,000": {"num_experts": 10**6, "experts_per_token": 1},
    "experts_per_token is 0": {"num_experts": 4},
    "experts_per_token is 5": {"num_experts": 4, "experts_per_token": 5},
    "shared_intermediate is -3": {"num_experts": 4, "experts_per_token": 2, "shared_intermediate": -3},
    "shared_gate is set": {"num_experts": 4, "experts_per_token": 2, "shared_gate": True},
    "experts_per_token is 2": {"experts_per_token": 2},
    "shared_intermediate is 64": {"shared_intermediate": 64},
    "clamp is nan": {"clamp": float("nan")},
}


@pytest.mark.parametrize("message", IMPOSSIBLE)
def test_impossible_mixtures_are_refused_by_name(message):
    layer = make_spec().layers[0]
    changed = make_spec(layers=(layer, Layer(layer.attention, Mlp(96, **IMPOSSIBLE[message]))))
    with pytest.raises(ModelFileError, match=rf"layers\.1\.mlp\.{message}"):
        make_backend(changed, weight_map(random_weights(make_spec())))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope": Rope(1e4, 24)}, r"layers\.0\.attention\.rope\.dims is 24"),
        ({"num_heads": 5}, "5 heads are no multiple of 2"),
        ({"num_kv_heads": 0}, "no multiple of 0"),
        ({"window": 0}, r"attention\.window is 0"),
        ({"qkv_clip": -1.0}, r"attention\.qkv_clip is -1"),
        ({"softcap": float("inf")}, r"attention\.softcap is inf"),
    ],
)
def test_impossible_heads_are_refused(changes, message):
    spec = make_spec(**changes)
    with pytest.raises(ModelFileError, match=message):
        make_backend(spec, weight_map(random_weights(make_spec())))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("layers.0.q", None, "no tensor for layers.0.q"),
        ("layers.1.attn_norm", None, "no tensor for layers.1.attn_norm"),
        ("layers.0.down", np.zeros((64, 95), np.float32), r"layers.0.down has shape \(64, 95\)"),
        ("final_norm", np.zeros(63, np.float32), "final_norm has 63 values"),
    ],
)
def test_missing_and_misshapen_weights_are_refused(place, value, message):
    spec = make_spec()
    weights = random_weights(spec)
    if value is None:
        del weights[place]
    else:
        weights[place] = value
    with pytest.raises(ModelFileError, match=message):
        make_backend(spec, weight_map(weights))
