"""The reference runner against the float64 oracle: every feature of a spec, every kind of stored weight."""

import numpy as np
import pytest
from tests.backend.driver import Driver, make_backend
from tests.backend.reference import (
    make_spec,
    random_weights,
    reference_logits,
    round_bf16,
    store_int8,
    weight_map,
)

from penstock.core import NO_OUTPUT, SAMPLE
from penstock.formats import Storage, dequantize_bytes, num_bytes
from penstock.model import Activation, QkNorm, Rope, RopeKind, WeightMap

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from penstock.backend.torch.products import product

LONG = {"short_factors": (1.0,) * 6, "long_factors": tuple(1.5 + i for i in range(6)), "original_tokens": 64}
FEATURES = {
    "plain": {},
    "biases": {"q_bias": True, "k_bias": True, "v_bias": True, "o_bias": True, "bias": True, "head_bias": True},
    "head norms, window": {"qk_norm": QkNorm.HEAD, "window": 9},
    "whole norms, clip": {"qk_norm": QkNorm.ALL, "qkv_clip": 0.9},
    "no rope, multipliers": {"rope": None, "embed_scale": 3.0, "residual_scale": 0.3, "logit_scale": 0.2},
    "interleaved, partial": {"rope": Rope(theta=1e4, dims=8, interleaved=True)},
    "longrope, partial": {"rope": Rope(theta=1e4, dims=12, kind=RopeKind.LONGROPE, **LONG)},
    "sinks, caps": {"sinks": True, "softcap": 4.0, "logit_softcap": 7.0, "window": 20},
    "post norms, offset, tied": {"post_norms": True, "pre_norms": False, "norm_offset": 1.0, "tied_head": True},
    "gelu": {"activation": Activation.GELU},
    "gelu tanh": {"activation": Activation.GELU_TANH},
    "oai experts": {
        "activation": Activation.SWIGLU_OAI,
        "clamp": 1.0,
        "num_experts": 5,
        "experts_per_token": 2,
        "router_bias": True,
        "bias": True,
        "norm_topk": True,
    },
    "shared expert": {"num_experts": 4, "experts_per_token": 3, "shared_intermediate": 40, "shared_gate": True},
    "one query group": {"num_heads": 4, "num_kv_heads": 1, "head_dim": 24},
}
TOKENS = [int(t) for t in np.random.default_rng(3).integers(0, 131, 43)]


def last_logits(spec, weights, tokens=TOKENS, **options):
    driver = Driver(make_backend(spec, weights, kind="torch", max_model_tokens=300, pages=20, **options))
    driver.open(0, tokens)
    return driver.prefill(0, tokens, [11])[-1][1][-1]


def shapes(arrays):
    return {name: array.shape for name, array in arrays.items()}


def error(got, expected):
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_agrees_with_the_oracle(name):
    spec = make_spec(**FEATURES[name])
    arrays = random_weights(spec, seed=6)
    expected = reference_logits(spec, arrays, TOKENS, 300)[-1]
    assert error(last_logits(spec, weight_map(arrays)), expected) < 2e-5
    other = make_spec(**{k: v for k, v in FEATURES[name].items() if k in ("tied_head", "num_experts", "pre_norms")})
    if name != "plain" and shapes(random_weights(other)) == shapes(arrays):  # control: without the feature it would not
        assert error(reference_logits(other, arrays, TOKENS, 300)[-1], expected) > 1e-3


def test_attention_goes_over_several_splits():
    spec, tokens = make_spec(num_layers=1, window=270), TOKENS * 13
    arrays = random_weights(spec, seed=1)
    expected = reference_logits(spec, arrays, tokens, 600)[-1]
    driver = Driver(
        make_backend(spec, weight_map(arrays), kind="torch", max_model_tokens=600, pages=40),
        page_order=range(39, -1, -1),
    )
    driver.open(0, tokens)
    driver.step(driver.row(0, 0, tokens[:515], NO_OUTPUT))
    got = driver.step(driver.row(0, 515, tokens[515:], SAMPLE), logits=True)[1][0]
    assert error(got, expected) < 2e-5
    left_out = [*tokens[:400], *tokens[401:]]
    assert error(got, reference_logits(spec, arrays, left_out, 600)[-1]) > 1e-3  # control


def test_int8_kv_is_as_the_oracle_stores_it():
    spec = make_spec()
    arrays = random_weights(spec)
    expected = reference_logits(spec, arrays, TOKENS, 300, stored=store_int8)[-1]
    got = last_logits(spec, weight_map(arrays), kv_type="int8")
    assert error(got, expected) < 1e-3 < error(last_logits(spec, weight_map(arrays)), expected)


def test_bf16_weights_take_inputs_rounded_to_bf16():
    """Products of bf16 are exact and summed in f32: only the inputs' rounding is left."""
    rng = np.random.default_rng(1)
    x, w = (round_bf16(rng.standard_normal(shape)) for shape in ((16, 512), (70, 512)))
    near = x + np.float32(1e-4) * np.abs(x)  # rounds back to x
    found = product(torch.from_numpy(near), torch.from_numpy(w).bfloat16()).numpy()
    assert error(found, x.astype(np.float64) @ w.T.astype(np.float64)) < 1e-6
    assert error(found, near.astype(np.float64) @ w.T.astype(np.float64)) > 1e-5  # control


def test_bf16_weights_are_near_the_oracle():
    spec = make_spec()
    arrays = {name: round_bf16(a) if a.ndim == 2 else a for name, a in random_weights(spec).items()}
    got = last_logits(spec, weight_map(arrays, Storage.BF16))
    assert error(got, reference_logits(spec, arrays, TOKENS, 300)[-1]) < 0.05


@pytest.mark.parametrize("storage", [Storage.F16, Storage.Q4_0, Storage.Q8_0, Storage.Q4_1, Storage.MXFP4])
def test_stored_codes_are_dequantized_without_loss(storage):
    spec = make_spec()
    arrays, refs = random_weights(spec), {}
    rng = np.random.default_rng(0)
    for name, ref in weight_map(arrays).tensors.items():
        if len(ref.tensor.shape) == 1 or name == "embed":
            refs[name] = ref
            continue
        data = np.frombuffer(rng.bytes(num_bytes(storage, ref.tensor.shape)), np.uint8)
        if storage is Storage.F16:
            data = arrays[name].astype(np.float16).reshape(-1).view(np.uint8)
        elif storage is Storage.MXFP4:
            data = tamed(data, 17, slice(0, 1), [124])
        else:
            size = {Storage.Q4_0: 18, Storage.Q8_0: 34, Storage.Q4_1: 20}[storage]
            data = tamed(data, size, slice(0, 2), [0, 0x20] if storage is Storage.Q8_0 else [0, 0x28])
            if storage is Storage.Q4_1:
                data = tamed(data, size, slice(2, 4), [0, 0xA8])
        tensor = ref.tensor.__class__(name, storage, ref.tensor.shape, data)
        refs[name] = ref.__class__(tensor)
        arrays[name] = dequantize_bytes(data, storage).reshape(ref.tensor.shape)
    expected = reference_logits(spec, arrays, TOKENS, 300)[-1]
    assert error(last_logits(spec, WeightMap(refs, "", (), 0)), expected) < 1e-4


def tamed(data, size, part, scale):
    """Blocks of random codes under a scale that keeps the activations small."""
    blocks = data.reshape(-1, size).copy()
    blocks[:, part] = scale
    return blocks.reshape(-1)


def test_rows_are_taken_in_the_order_that_is_named():
    spec = make_spec()
    arrays = random_weights(spec)
    plain = weight_map(arrays)
    order = np.random.default_rng(1).permutation(64)
    name = "layers.1.q"
    ref = plain.tensors[name]
    shuffled = weight_map({**arrays, name: arrays[name][np.argsort(order)]}).tensors[name]
    moved = {**plain.tensors, name: ref.__class__(shuffled.tensor, rows=order)}
    assert last_logits(spec, WeightMap(moved, "", (), 0)).tobytes() == last_logits(spec, plain).tobytes()
    wrong = {**plain.tensors, name: shuffled}
    assert last_logits(spec, WeightMap(wrong, "", (), 0)).tobytes() != last_logits(spec, plain).tobytes()
