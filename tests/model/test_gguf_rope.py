"""Rotary keys and tables of GGUF files."""

import math
from dataclasses import replace

import numpy as np
import pytest

from penstock.core import ModelFileError
from penstock.formats import RawTensor, Storage
from penstock.model import Activation, Attention, DecoderSpec, Layer, Mlp, Rope, RopeKind
from penstock.model.fields import Fields
from penstock.model.gguf_keys import Keys
from penstock.model.gguf_rope import rope_parameters, with_divisors

CONFIG = {"head_dim": 24, "max_position_embeddings": 512}


def table(name, values, storage=Storage.F32):
    data = np.asarray(values, np.float32)
    return {name: RawTensor(name, storage, data.shape, data.view(np.uint8).reshape(-1))}


def parameters(tensors=None, **values):
    keys = {f"phi3.rope.{key.replace('__', '.')}": value for key, value in values.items()}
    return rope_parameters(Keys(Fields(keys, "m.gguf"), "phi3"), CONFIG, tensors or {})


def test_rules_without_tables():
    assert parameters() == {"rope_theta": 1e4, "rope_type": "default"}
    assert parameters(freq_base=5e5, dimension_count=24) == {"rope_theta": 5e5, "rope_type": "default"}
    linear = {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0}
    assert parameters(scaling__type="linear", scaling__factor=4.0) == linear
    assert parameters(scaling__factor=4.0) == parameters(scale_linear=4.0) == linear
    assert parameters(scaling__type="none", scaling__factor=4.0)["rope_type"] == "default"
    assert parameters(scaling__type="linear", scaling__factor=1.0)["rope_type"] == "default"
    yarn = parameters(scaling__type="yarn", scaling__factor=4.0, scaling__original_context_length=64)
    assert (yarn["factor"], yarn["original_max_position_embeddings"]) == (4.0, 64)
    yarn = parameters(scaling__type="yarn", scaling__factor=4.0, scaling__yarn_beta_fast=16.0)
    assert yarn["beta_fast"] == 16.0 and "original_max_position_embeddings" not in yarn


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"freq_base": 0.0}, "rope.freq_base is 0.0"),
        ({"dimension_count": 26}, "rope.dimension_count is 26"),
        ({"scaling__type": "spiral"}, "rope.scaling.type is 'spiral'"),
        ({"scaling__type": "longrope"}, "longrope"),
        ({"scaling__type": "yarn"}, "rope.scaling.factor is missing"),
        ({"scaling__type": "yarn", "scaling__factor": -2.0}, "rope.scaling.factor is -2.0"),
    ],
)
def test_what_cannot_be_is_refused(values, words):
    with pytest.raises(ModelFileError) as caught:
        parameters(**values)
    assert words in str(caught.value)


@pytest.mark.parametrize("head_dim", range(2, 258, 2))
def test_a_part_of_a_head_survives_the_fraction(head_dim):
    for dims in range(2, head_dim, 2):
        keys = Keys(Fields({"phi3.rope.dimension_count": dims}, "m.gguf"), "phi3")
        share = rope_parameters(keys, {"head_dim": head_dim}, {})["partial_rotary_factor"]
        assert int(head_dim * share) == dims


def test_long_rope_comes_from_its_tables():
    tensors = table("rope_factors_long.weight", [2.0] * 12) | table("rope_factors_short.weight", [1.0] * 12)
    found = parameters(tensors, scaling__original_context_length=64)
    assert found["rope_type"] == "longrope" and found["original_max_position_embeddings"] == 64
    assert found["long_factor"] == [2.0] * 12 and found["short_factor"] == [1.0] * 12
    implied = float(np.float32(math.sqrt(1 + math.log(8) / math.log(64))))
    found = parameters(tensors, scaling__original_context_length=64, scaling__attn_factor=implied)
    assert "attention_factor" not in found  # what the rule gives anyway, but for float32
    found = parameters(tensors, scaling__original_context_length=64, scaling__attn_factor=1.0)
    assert found["attention_factor"] == 1.0
    with pytest.raises(ModelFileError, match="original_context_length is missing"):
        parameters(tensors)
    for missing in tensors:
        with pytest.raises(ModelFileError, match=f"{missing} is missing"):
            parameters({k: v for k, v in tensors.items() if k != missing}, scaling__original_context_length=64)
    with pytest.raises(ModelFileError, match=r"rope_factors_long\.weight is F32"):
        parameters(tensors | table("rope_factors_long.weight", [2.0] * 11), scaling__original_context_length=64)


def spec_of(*ropes):
    attention = Attention(4, 2, 24, 0.2, None)
    layers = tuple(Layer(replace(attention, rope=rope), Mlp(96, Activation.SILU)) for rope in ropes)
    return DecoderSpec("llama", 64, 100, layers, 1e-6, 512)


def test_divisors_change_the_layers_that_rotate():
    spec = spec_of(Rope(1e4, 24), None)
    assert with_divisors(spec, {}, "m.gguf") is spec
    values = np.linspace(1, 8, 12).astype(np.float32)
    changed = with_divisors(spec, table("rope_freqs.weight", values), "m.gguf")
    rope = changed.layers[0].attention.rope
    assert rope.kind is RopeKind.LONGROPE and rope.long_factors == rope.short_factors == tuple(map(float, values))
    assert dict(rope.scaling) == {"attention_factor": 1.0, "factor": 1.0} and changed.layers[1] == spec.layers[1]


@pytest.mark.parametrize(
    "values", [np.ones(11), np.zeros(12), -np.ones(12), np.full(12, np.nan), np.full(12, np.inf), np.ones((3, 4))]
)
def test_tables_that_cannot_be_are_refused(values):
    with pytest.raises(ModelFileError, match=r"m\.gguf: rope_freqs\.weight"):
        with_divisors(spec_of(Rope(1e4, 24)), table("rope_freqs.weight", values), "m.gguf")


def test_divisors_beside_another_rule_or_of_another_kind_are_refused():
    scaled = Rope(1e4, 24, RopeKind.LINEAR, (("factor", 2.0),))
    with pytest.raises(ModelFileError, match="beside another rope scaling"):
        with_divisors(spec_of(scaled), table("rope_freqs.weight", np.ones(12)), "m.gguf")
    half = table("rope_freqs.weight", np.ones(12), Storage.F16)
    with pytest.raises(ModelFileError, match="is F16"):
        with_divisors(spec_of(Rope(1e4, 24)), half, "m.gguf")
