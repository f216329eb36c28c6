"""Weights that the engine's benchmark makes up: their size is that of a model's, in every storage kind."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.engine_cpu import KINDS, plans_of, qwen3_spec, random_checkpoint, stored_values
from benchmarks.random_checkpoint import SHAPE
from gguf import GGMLQuantizationType, dequantize

from penstock.formats import Storage

CONFIG = Path(__file__).parents[2].parent / "shared/data/model_configs/Qwen--Qwen3-0.6B.json"


@pytest.mark.parametrize("storage", [Storage.BF16, Storage.Q8_0, Storage.Q4_0, Storage.Q6_K])
def test_values_are_of_an_ordinary_size(storage: Storage) -> None:
    data = stored_values(storage, 1 << 14, np.random.default_rng(0))
    values = dequantize(data, GGMLQuantizationType[storage.value])
    assert values.size == 1 << 14
    assert 0.01 < values.std() < 0.06
    assert abs(values.mean()) < 0.02


def test_a_head_of_its_own_is_the_head_alone() -> None:
    assert "Q4_0+Q6_K" in KINDS.split(",")
    spec = qwen3_spec(quick=True)
    mixed = {name: ref.tensor.storage for name, ref in random_checkpoint(spec, "Q4_0+Q6_K").weights.tensors.items()}
    assert [name for name, storage in mixed.items() if storage is Storage.Q6_K] == ["embed"]
    assert {storage for storage in mixed.values()} == {Storage.Q4_0, Storage.Q6_K, Storage.F32}
    plain = random_checkpoint(spec, "Q4_0")
    assert plain.weights.tensors["embed"].tensor.storage is Storage.Q4_0
    assert plain.storage[0][0] == "Q4_0"


@pytest.mark.skipif(not CONFIG.exists(), reason=f"{CONFIG} is not there")
def test_the_shape_is_the_published_one() -> None:
    published = json.loads(CONFIG.read_text())
    assert SHAPE.items() <= published.items()
    assert set(published) - set(SHAPE) == {"torch_dtype", "transformers_version"}


def test_an_int8_kv_is_measured_beside_one_kind() -> None:
    options = Namespace(quick=False, tier="avx2")
    types = {kind: [plan.kv_type for plan in plans_of(kind, options)] for kind in KINDS.split(",")}
    assert types["Q4_0"] == ["bf16", "bf16", "int8"]
    assert [kind for kind, found in types.items() if "int8" in found] == ["Q4_0"]
    small = plans_of("Q4_0", options)[-1]
    assert (small.streams, small.depths, small.isa) == ((1, 16), (512, 2048), "avx2")
