"""Rotary fields in both spellings, and the angles that they give, against transformers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from penstock.core import ModelFileError
from penstock.model import Rope, RopeKind, rope_frequencies
from penstock.model.fields import Fields
from penstock.model.rope import RopeRule, parse_rope

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
HEAD_DIM = 64


def parsed(**values: object) -> Rope:
    return parse_rope(Fields(values, "config.json"), HEAD_DIM, 131072)


def test_older_and_newer_spelling_agree() -> None:
    old = parsed(rope_theta=5e5, rope_scaling={"rope_type": "llama3", **LLAMA3})
    new = parsed(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3})
    assert old == new
    assert old.kind is RopeKind.LLAMA3 and old.original_tokens == 8192 and old.theta == 5e5
    assert parsed(rope_scaling={"type": "linear", "factor": 4}).scaling == (("factor", 4.0),)
    assert parsed().theta == 10000.0 and parsed(rope_scaling=None).kind is RopeKind.DEFAULT


def test_the_older_spelling_wins_where_it_says_anything() -> None:
    newer = {"rope_type": "default", "rope_theta": 5.0}
    both = parsed(rope_theta=7.0, rope_scaling={"type": "linear", "factor": 4}, rope_parameters=newer)
    assert (both.kind, both.theta) == (RopeKind.LINEAR, 7.0)
    assert parsed(rope_theta=7.0, rope_scaling=None, rope_parameters=newer).theta == 5.0
    assert parsed(rope_theta=7.0, rope_scaling={}, rope_parameters={"rope_type": "default"}).theta == 7.0


def test_original_length() -> None:
    assert parsed(rope_scaling={"type": "dynamic", "factor": 2}).original_tokens == 131072
    yarn = parsed(rope_scaling={"type": "yarn", "factor": None, "original_max_position_embeddings": 32768})
    assert dict(yarn.scaling) == {"factor": 4.0} and yarn.original_tokens == 32768
    assert dict(parsed(rope_scaling={"type": "yarn", "factor": 2, "truncate": False}).scaling)["truncate"] == 0.0


def test_an_entry_for_each_layer_type() -> None:
    nested = {"full_attention": {"rope_type": "linear", "factor": 8, "rope_theta": 1e6}, "sliding_attention": None}
    fields = Fields({"rope_parameters": nested, "rope_theta": 3.0}, "config.json")
    full = parse_rope(fields, HEAD_DIM, 512, RopeRule(theta=5.0, layer_type="full_attention"))
    assert (full.kind, full.theta) == (RopeKind.LINEAR, 1e6)
    local = parse_rope(fields, HEAD_DIM, 512, RopeRule(theta=5.0, layer_type="sliding_attention"))
    assert (local.kind, local.theta) == (RopeKind.DEFAULT, 3.0)
    with pytest.raises(ModelFileError, match="unknown parameter 'full_attention'"):
        parse_rope(fields, HEAD_DIM, 512)


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "longer"},
        {"type": 3},
        {"type": "longrope", "factor": 2},
        {"type": "longrope", "short_factor": [1.0] * 32, "long_factor": [1.0] * 31},
        {"type": "longrope", "short_factor": [1.0] * 32, "long_factor": [1.0] * 31 + [0]},
        {"type": "longrope", "short_factor": [1.0] * 32, "long_factor": [1.0] * 31 + ["2"]},
        {"type": "longrope", "short_factor": [1.0] * 32, "long_factor": [1.0] * 32, "short_mscale": 1.2},
        {"type": "linear", "factor": 0},
        {"type": "linear", "factor": float("nan")},
        {"type": "linear", "factor": True},
        {"type": "llama3", "factor": 8.0},
        {"type": "yarn", "factor": 2, "mystery": 1},
        {"type": "yarn", "factor": 2, "attention_factor": 0},
        {"type": "linear", "factor": 2, "attention_factor": 1.5},
        {"type": "default", "partial_rotary_factor": 0.5},
        [1],
    ],
)
def test_what_is_not_known_is_refused(scaling: object) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json"):
        parsed(rope_scaling=scaling)


@pytest.mark.parametrize("share", [0, -0.5, 1.5, 0.01, 3 / 64])
def test_impossible_shares_of_a_head_are_refused(share: float) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json"):
        parse_rope(Fields({"partial_rotary_factor": share}, "config.json"), HEAD_DIM, 512, RopeRule(partial=True))


factors = st.floats(1.0, 64.0)
lengths = st.sampled_from([64, 512, 4096])
optional = st.none() | st.floats(0.25, 2.0)


@st.composite
def rules(draw: st.DrawFn) -> tuple[dict[str, object], float]:
    """A scaling as a config holds it, and the share of a head that rotates."""
    kind = draw(st.sampled_from([kind.value for kind in RopeKind]))
    share = draw(st.sampled_from([1.0, 0.75, 0.5, 0.25]))
    scaling: dict[str, object] = {"rope_type": kind}
    if kind in ("linear", "dynamic", "llama3", "yarn"):
        scaling["factor"] = draw(factors)
    if kind in ("llama3", "yarn", "longrope"):
        scaling["original_max_position_embeddings"] = draw(lengths)
    if kind == "llama3":
        low = draw(st.floats(0.5, 4.0))
        scaling |= {"low_freq_factor": low, "high_freq_factor": low + draw(st.floats(0.5, 8.0))}
    if kind == "yarn":
        names = ("attention_factor", "mscale", "mscale_all_dim")
        scaling |= {name: value for name in names if (value := draw(optional)) is not None}
        scaling |= {"truncate": draw(st.booleans()), "beta_fast": draw(st.floats(16.0, 48.0))}
    if kind == "longrope":
        count = int(HEAD_DIM * share) // 2
        scaling |= {name: draw(st.lists(factors, min_size=count, max_size=count)) for name in LISTS}
        scaling |= {name: value for name in ("attention_factor", "factor") if (value := draw(optional)) is not None}
    return scaling, share


LISTS = ("short_factor", "long_factor")


def oracle(fields: dict[str, object], max_model_tokens: int) -> tuple[np.ndarray, float]:
    """transformers' frequencies and attention factor for a sequence of that length."""
    config = LlamaConfig(**fields)
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        share = config.rope_parameters.get("partial_rotary_factor", 1.0)
        whole = LlamaConfig(**{**fields, "head_dim": int(HEAD_DIM * share), "partial_rotary_factor": 1.0})
        return LlamaRotaryEmbedding(whole).inv_freq.double().numpy(), 1.0
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=max_model_tokens)
    return frequencies.double().numpy(), float(factor)


@settings(max_examples=150, deadline=None)
@given(rules(), st.floats(1e3, 1e7), st.sampled_from([512, 2048]), st.sampled_from([60, 512, 700, 5000]), st.booleans())
def test_every_rule_gives_the_angles_of_transformers(
    rule: tuple[dict[str, object], float], theta: float, context: int, max_model_tokens: int, newer: bool
) -> None:
    scaling, share = rule
    fields = {"head_dim": HEAD_DIM, "hidden_size": 4 * HEAD_DIM, "num_attention_heads": 4}
    fields |= {"max_position_embeddings": context}
    if newer:
        fields["rope_parameters"] = {**scaling, "rope_theta": theta, "partial_rotary_factor": share}
    else:
        fields |= {"rope_scaling": dict(scaling), "rope_theta": theta, "partial_rotary_factor": share}
    rope = parse_rope(Fields(fields, "config.json"), HEAD_DIM, context, RopeRule(partial=True))
    expected, expected_factor = oracle(fields, max_model_tokens)
    got, got_factor = rope_frequencies(rope, max_model_tokens)
    assert got == pytest.approx(expected, rel=1e-5, abs=0)
    assert got_factor == pytest.approx(expected_factor, rel=1e-9)
    moved, _ = rope_frequencies(rope, max_model_tokens)
    moved[-1] *= 1.001
    assert moved != pytest.approx(expected, rel=1e-5, abs=0)  # the control


@pytest.mark.parametrize(
    "rope",
    [
        Rope(1.0, 64, RopeKind.YARN, (("factor", 2.0),), original_tokens=64),
        Rope(1e4, 64, RopeKind.YARN, (("beta_fast", 1e-320), ("factor", 2.0)), original_tokens=64),
        Rope(1e4, 64, RopeKind.DYNAMIC, (("factor", 1e300),), original_tokens=64),
        Rope(5e-324, 64),
    ],
)
def test_scalings_beyond_floats_are_refused(rope: Rope) -> None:
    with pytest.raises(ModelFileError, match="not finite"):
        rope_frequencies(rope, 4096)
