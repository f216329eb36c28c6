"""Weights that the engine's benchmark makes up: their size is that of a model's, in every storage kind."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.engine_cpu import KINDS, qwen3_spec, random_checkpoint, stored_values
from gguf import GGMLQuantizationType, dequantize

from penstock.formats import Storage


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
