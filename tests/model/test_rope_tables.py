"""Rotary frequencies of every rule against transformers."""

import math
import resource

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from penstock.core import ModelFileError
from penstock.model import Rope, RopeKind, RopeTable, rope_frequencies

DIMS, THETA, ORIGINAL = 64, 10000.0, 512
SHORT = tuple(1.0 + i / 40 for i in range(DIMS // 2))
LONG = tuple(1.0 + i / 7 for i in range(DIMS // 2))

RULES = {
    "linear": (RopeKind.LINEAR, {"factor": 4.0}),
    "dynamic": (RopeKind.DYNAMIC, {"factor": 4.0}),
    "llama3": (RopeKind.LLAMA3, {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
    "yarn": (RopeKind.YARN, {"factor": 4.0}),
    "yarn tuned": (
        RopeKind.YARN,
        {"factor": 8.0, "beta_fast": 20.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 0.9},
    ),
    "yarn untruncated": (RopeKind.YARN, {"factor": 8.0, "truncate": 0.0, "attention_factor": 1.3}),
    "longrope": (RopeKind.LONGROPE, {"factor": 4.0}),
}


def make_rope(name, **changes):
    kind, scaling = RULES[name]
    fields = {"theta": THETA, "dims": DIMS, "kind": kind, "scaling": tuple(sorted(scaling.items()))}
    fields |= {"short_factors": SHORT, "long_factors": LONG} if kind is RopeKind.LONGROPE else {}
    return Rope(**(fields | {"original_tokens": ORIGINAL} | changes))


def oracle(name, max_model_tokens):
    kind, scaling = RULES[name]
    parameters = dict(scaling) | {"rope_type": kind.value, "rope_theta": THETA}
    parameters |= {"original_max_position_embeddings": ORIGINAL}
    if kind is RopeKind.LONGROPE:
        parameters |= {"short_factor": list(SHORT), "long_factor": list(LONG)}
    if "truncate" in parameters:
        parameters["truncate"] = bool(parameters["truncate"])
    longest = ORIGINAL if kind is RopeKind.DYNAMIC else 4 * ORIGINAL
    config = LlamaConfig(
        hidden_size=4 * DIMS, num_attention_heads=4, max_position_embeddings=longest, rope_parameters=parameters
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind.value](config, torch.device("cpu"), seq_len=max_model_tokens)
    return frequencies.double().numpy(), float(factor)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("max_model_tokens", [300, 2048])
def test_frequencies_agree_with_transformers(name, max_model_tokens):
    frequencies, factor = rope_frequencies(make_rope(name), max_model_tokens)
    expected, expected_factor = oracle(name, max_model_tokens)
    assert frequencies == pytest.approx(expected, rel=2e-6)
    assert factor == pytest.approx(expected_factor, rel=1e-9)


def test_control_another_factor_is_found():
    changed = make_rope("linear", scaling=(("factor", 4.001),))
    assert rope_frequencies(changed, 300)[0] != pytest.approx(oracle("linear", 300)[0], rel=2e-6)


def test_tables_are_cosines_and_sines_with_the_factor():
    table = RopeTable(make_rope("yarn"), 4700)
    table.fill(4700)
    cos, sin = table.cos, table.sin
    frequencies, factor = rope_frequencies(make_rope("yarn"), 4700)
    angles = np.arange(4700)[:, None] * frequencies
    assert cos.dtype == np.float32
    assert cos.shape == (4700, DIMS // 2)
    assert np.allclose(cos, np.cos(angles) * factor, atol=1e-6)
    assert np.allclose(sin, np.sin(angles) * factor, atol=1e-6)


def test_only_what_is_filled_takes_memory():
    table = RopeTable(make_rope("linear"), 10_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    table.fill(5000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024
    whole = RopeTable(make_rope("linear"), 10_000_000)
    whole.fill(100)
    assert np.array_equal(table.cos[:100], whole.cos[:100])


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (Rope(THETA, 7), "dims 7"),
        (Rope(THETA, 0), "dims 0"),
        (Rope(-1.0, 8), "theta -1"),
        (Rope(math.nan, 8), "theta nan"),
        (make_rope("linear", scaling=()), "factor is None"),
        (make_rope("linear", scaling=(("factor", 0.0),)), "factor is 0"),
        (make_rope("linear", scaling=(("factor", math.inf),)), "factor is inf"),
        (make_rope("llama3", original_tokens=0), "original context length"),
        (
            make_rope("llama3", scaling=(("factor", 8.0), ("high_freq_factor", 1.0), ("low_freq_factor", 4.0))),
            "must exceed",
        ),
        (make_rope("longrope", short_factors=SHORT[:3]), "3 factors; 32"),
        (make_rope("longrope", short_factors=(0.0,) * 32), "positive"),
    ],
)
def test_impossible_rules_are_refused(rope, message):
    with pytest.raises(ModelFileError, match=message):
        rope_frequencies(rope, 300)
