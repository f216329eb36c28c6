"""Stored tensors find their places: whole, fused, stacked; what is missing, left over or of another kind is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core import ModelFileError
from penstock.formats import RawTensor, Storage, num_bytes
from penstock.formats.gguf_blocks import dequantize
from penstock.model.dense import Family
from penstock.model.places import places
from penstock.model.sources import GGUF_SOURCES, HF_SOURCES, Part, fused
from penstock.model.spec import Attention, DecoderSpec, Layer, Mlp
from penstock.model.tensor_file import ByteTensor, TensorFile
from penstock.model.weight_map import fill
from penstock.model.weights import WeightRef

HIDDEN, WIDE, EXPERTS, VOCAB = 64, 32, 3, 5
MIXTURE = Mlp(WIDE, bias=True, num_experts=EXPERTS, experts_per_token=2, shared_intermediate=96, shared_gate=True)
DENSE = Mlp(96, bias=True)


def spec_of(*mlps: Mlp) -> DecoderSpec:
    attention = Attention(4, 2, 16, 0.25, None, q_bias=True, k_bias=True, v_bias=True)
    layers = tuple(Layer(attention, mlp) for mlp in mlps)
    return DecoderSpec("made", HIDDEN, VOCAB, layers, 1e-6, 100)


SPEC = spec_of(DENSE, MIXTURE)


def family_of(**options: object) -> Family:
    return Family("made", "Made", lambda config: SPEC, "made", **options)


def raw(name: str, storage: Storage, shape: tuple[int, ...], seed: int = 0) -> RawTensor:
    generator = np.random.default_rng([seed, *name.encode()])
    if storage is Storage.F32:
        data = generator.standard_normal(shape).astype(np.float32).reshape(-1).view(np.uint8)
    else:
        data = generator.integers(0, 60, num_bytes(storage, shape)).astype(np.uint8)
    data.flags.writeable = False
    return RawTensor(name, storage, shape, data)


def values_of(ref: WeightRef) -> np.ndarray:
    values = dequantize(ref.tensor)
    return values[ref.first :] if ref.count < 0 else values[ref.first : ref.first + ref.count]


def one_each(spec: DecoderSpec) -> dict[str, RawTensor]:
    """Every place as a tensor of its own, with the names of HF's tables."""
    family, found = family_of(), {}
    for place, shape in places(spec).items():
        stem, bias, _ = place.partition(".bias")
        if not stem.startswith("layers."):
            name = family.names[stem]
        else:
            _, index, inner = stem.split(".", 2)
            parts = inner.split(".")
            key = f"experts.{parts[2]}" if parts[0] == "experts" else inner
            local = family.names[key] if key in family.names else HF_SOURCES[key][0].name
            name = f"model.layers.{index}." + local.replace("{}", parts[1] if parts[0] == "experts" else "")
        name += bias or ".weight"
        found[name] = raw(name, Storage.F32, shape)
    return found


def file_of(tensors: dict[str, RawTensor], **options: object) -> TensorFile:
    return TensorFile(Path("made.safetensors"), b"header", tensors, **options)


def joined(name: str, parts: list[RawTensor], shape: tuple[int, ...]) -> RawTensor:
    return RawTensor(name, parts[0].storage, shape, np.concatenate([part.data for part in parts]))


def test_tensors_of_their_own() -> None:
    tensors = one_each(SPEC)
    spec, weights = fill(SPEC, family_of(), [file_of(tensors)], b"")
    assert spec == SPEC and weights.tensors.keys() == places(SPEC).keys()
    assert {id(ref.tensor) for ref in weights.tensors.values()} == {id(tensor) for tensor in tensors.values()}
    assert weights.tensors["layers.1.experts.2.up.bias"].tensor.name == "model.layers.1.mlp.experts.2.up_proj.bias"
    assert weights.total_bytes == sum(len(tensor.data) for tensor in tensors.values())


def test_fused_rows_are_views_in_their_order() -> None:
    tensors, expected = one_each(SPEC), {}
    for index in (0, 1):
        for suffix in ("weight", "bias"):
            at = f"model.layers.{index}.self_attn."
            parts = [tensors.pop(f"{at}{name}_proj.{suffix}") for name in "qkv"]
            shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
            tensors[f"{at}qkv_proj.{suffix}"] = joined(f"{at}qkv_proj.{suffix}", parts, shape)
            places_of = (f"layers.{index}.{name}{'.bias' if suffix == 'bias' else ''}" for name in "qkv")
            expected |= dict(zip(places_of, parts, strict=True))
    family = family_of(sources=HF_SOURCES | fused("self_attn.qkv_proj", "q", "k", "v"))
    _, weights = fill(SPEC, family, [file_of(tensors)], b"")
    for place, part in expected.items():
        assert np.array_equal(values_of(weights.tensors[place]), dequantize(part))
    assert weights.total_bytes == sum(len(tensor.data) for tensor in tensors.values())
    wrong = family_of(sources=HF_SOURCES | fused("self_attn.qkv_proj", "k", "q", "v"))  # control: another order
    _, weights = fill(SPEC, wrong, [file_of(tensors)], b"")
    assert not np.array_equal(values_of(weights.tensors["layers.0.q"]), dequantize(expected["layers.0.q"]))


def gguf_rest(spec: DecoderSpec) -> dict[str, RawTensor]:
    """Everything but the experts, with the names of GGUF's tables; the shared expert's gate as a vector."""
    family, rest = family_of(), {}
    for place, shape in places(spec).items():
        if ".experts." not in place:
            stem, bias, _ = place.partition(".bias")
            key = stem.split(".", 2)[2] if stem.startswith("layers.") else stem
            local = family.gguf_names[key] if key in family.gguf_names else GGUF_SOURCES[key][0].name
            name = ("blk.0." if stem.startswith("layers.") else "") + local + (bias or ".weight")
            rest[name] = raw(name, Storage.F32, shape[1:] if key == "shared.router" else shape)
    return rest


def test_the_oldest_mixtures_have_a_tensor_an_expert() -> None:
    spec = spec_of(replace(MIXTURE, bias=False))
    own = {}
    for place, shape in places(spec).items():
        if ".experts." in place:
            _, _, _, expert, part = place.split(".")
            own[place] = raw(f"blk.0.ffn_{part}.{expert}.weight", Storage.Q8_0, shape)
    files = [file_of(gguf_rest(spec) | {tensor.name: tensor for tensor in own.values()})]
    _, weights = fill(spec, family_of(), files, b"", gguf=True)
    assert all(weights.tensors[place].tensor is tensor for place, tensor in own.items())


@given(st.sampled_from([Storage.F32, Storage.Q8_0, Storage.Q4_0]), st.integers(0, 99))
def test_stacks_are_views_of_each_expert(storage: Storage, seed: int) -> None:
    spec = spec_of(replace(MIXTURE, bias=False))
    stacks = {
        f"blk.0.ffn_{name}_exps.weight": raw(f"blk.0.ffn_{name}_exps.weight", storage, shape, seed)
        for name, shape in (
            ("gate", (EXPERTS, WIDE, HIDDEN)),
            ("up", (EXPERTS, WIDE, HIDDEN)),
            ("down", (EXPERTS, HIDDEN, WIDE)),
        )
    }
    rest = gguf_rest(spec)
    _, weights = fill(spec, family_of(), [file_of(rest | stacks)], b"", gguf=True)
    for name in ("gate", "up", "down"):
        stack = stacks[f"blk.0.ffn_{name}_exps.weight"]
        flat = replace(stack, shape=(stack.shape[0] * stack.shape[1], stack.shape[2]))
        whole = dequantize(flat).reshape(stack.shape)
        for expert in range(EXPERTS):
            ref = weights.tensors[f"layers.0.experts.{expert}.{name}"]
            assert np.shares_memory(ref.tensor.data, stack.data) and not ref.tensor.data.flags.writeable
            assert np.array_equal(values_of(ref), whole[expert], equal_nan=True)
        other = weights.tensors[f"layers.0.experts.1.{name}"]  # control: another expert is another slice
        assert not np.array_equal(values_of(other), whole[0])
    assert weights.tensors["layers.0.shared.router"].tensor.shape == (1, HIDDEN)


def test_what_is_wrong_is_named() -> None:
    tensors, expert = one_each(SPEC), "model.layers.1.mlp.experts.2.up_proj.weight"

    def refused(changed: dict[str, RawTensor], match: str, **options: object) -> None:
        with pytest.raises(ModelFileError, match=match):
            fill(SPEC, family_of(), [file_of(changed, **options)], b"")

    missing = {name: tensor for name, tensor in tensors.items() if name != expert}
    refused(missing, f"tensor {expert} is missing")
    refused(missing, f"tensor {expert} is U8, which is not served", foreign={expert: "U8"})
    octets = {expert: ByteTensor(expert, (WIDE, HIDDEN), np.zeros(WIDE * HIDDEN, np.uint8))}
    refused(missing, "is U8, which is not served", foreign={expert: "U8"}, octets=octets)
    refused(
        tensors | {expert: raw(expert, Storage.F32, (WIDE, HIDDEN + 1))}, r"is \(32, 65\); the config needs \(32, 64\)"
    )
    fourth = expert.replace(".2.", ".3.")
    refused(tensors | {fourth: raw(fourth, Storage.F32, (WIDE, HIDDEN))}, f"{fourth}' has no place in a made model")
    stack = "model.layers.1.mlp.experts.down_proj"
    refused(tensors | {stack: raw(stack, Storage.F32, (EXPERTS, HIDDEN, WIDE))}, f"{stack}' has no place")
    bias = "model.layers.1.mlp.experts.0.down_proj.bias"
    refused(tensors | {bias: raw(bias, Storage.Q8_0, (HIDDEN,))}, "is Q8_0; a vector of floats is needed")


@pytest.mark.parametrize("shape", [(EXPERTS - 1, HIDDEN, WIDE), (EXPERTS, WIDE, HIDDEN), (EXPERTS * HIDDEN, WIDE)])
def test_a_stack_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    stack = "model.layers.1.mlp.experts.down_proj"
    tensors = {
        name: tensor for name, tensor in one_each(SPEC).items() if ".1.mlp.experts." not in name or "down" not in name
    }
    bias = f"{stack}_bias"
    tensors |= {bias: raw(bias, Storage.F32, (EXPERTS, HIDDEN)), stack: raw(stack, Storage.F32, shape)}
    with pytest.raises(ModelFileError, match="the config needs"):
        fill(SPEC, family_of(), [file_of(tensors)], b"")
    good = tensors | {stack: raw(stack, Storage.F32, (EXPERTS, HIDDEN, WIDE))}  # control
    assert fill(SPEC, family_of(), [file_of(good)], b"")[1].tensors["layers.1.experts.2.down"].tensor.shape == (64, 32)


def test_the_first_way_that_is_whole_is_taken() -> None:
    tensors = one_each(SPEC)
    family = family_of(sources=HF_SOURCES | {"router": (Part("absent"), *HF_SOURCES["router"])})
    _, weights = fill(SPEC, family, [file_of(tensors)], b"")
    assert weights.tensors["layers.1.router"].tensor.name == "model.layers.1.mlp.gate.weight"
    del tensors["model.layers.1.mlp.gate.weight"]
    with pytest.raises(ModelFileError, match=r"tensor model\.layers\.1\.absent\.weight is missing"):
        fill(SPEC, family, [file_of(tensors)], b"")
