"""Rotary fields in both spellings."""

import pytest

from penstock.core import ModelFileError
from penstock.model import Rope, RopeKind
from penstock.model.fields import Fields
from penstock.model.rope import parse_rope

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def parsed(**values: object) -> Rope:
    return parse_rope(Fields(values, "config.json"), 64, 131072)


def test_older_and_newer_spelling_agree() -> None:
    old = parsed(rope_theta=5e5, rope_scaling={"rope_type": "llama3", **LLAMA3})
    new = parsed(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3})
    assert old == new
    assert old.kind is RopeKind.LLAMA3 and old.original_tokens == 8192 and old.theta == 5e5
    assert parsed(rope_scaling={"type": "linear", "factor": 4}).scaling == (("factor", 4.0),)
    assert parsed().theta == 10000.0 and parsed(rope_scaling=None).kind is RopeKind.DEFAULT


def test_original_length() -> None:
    assert parsed(rope_scaling={"type": "dynamic", "factor": 2}).original_tokens == 131072
    yarn = parsed(rope_scaling={"type": "yarn", "factor": None, "original_max_position_embeddings": 32768})
    assert dict(yarn.scaling) == {"factor": 4.0} and yarn.original_tokens == 32768
    assert dict(parsed(rope_scaling={"type": "yarn", "factor": 2, "truncate": False}).scaling)["truncate"] == 0.0


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "longer"},
        {"type": 3},
        {"type": "longrope", "factor": 2},
        {"type": "linear", "factor": 0},
        {"type": "linear", "factor": float("nan")},
        {"type": "linear", "factor": True},
        {"type": "llama3", "factor": 8.0},
        {"type": "yarn", "factor": 2, "mystery": 1},
        [1],
    ],
)
def test_what_is_not_known_is_refused(scaling: object) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json"):
        parsed(rope_scaling=scaling)
