import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core import InvalidRequest, SamplingParams, check_sampling, limits

VOCAB = 1000


def test_defaults_pass() -> None:
    check_sampling(SamplingParams(), VOCAB)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", True),
        ("temperature", "1"),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.5),
        ("typical_p", 0.0),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -math.inf),
        ("top_k", -1),
        ("top_k", 1.5),
        ("n", 0),
        ("n", limits.MAX_SAMPLES + 1),
        ("max_tokens", 0),
        pytest.param("max_tokens", 10**5000, id="max_tokens-5000-digits"),
        ("min_tokens", -1),
        ("seed", 2**63),
        ("seed", True),
        ("logprobs", 21),
        ("prompt_logprobs", -1),
        ("stop", ("",)),
        ("stop", ("x" * (limits.MAX_STOP_CHARS + 1),)),
        ("stop", ("a",) * (limits.MAX_STOP_STRINGS + 1)),
        ("stop_token_ids", (VOCAB,)),
        ("stop_token_ids", (-1,)),
        ("logit_bias", ((VOCAB, 1.0),)),
        ("logit_bias", ((0, 101.0),)),
        ("logit_bias", ((0, math.nan),)),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_sampling(replace(SamplingParams(), **{field: value}), VOCAB)
    assert caught.value.param == field
    assert caught.value.status == 400
    assert len(str(caught.value)) < 400
    assert "hint:" in str(caught.value)


def test_min_tokens_above_max_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="min_tokens is 5, more than max_tokens 4"):
        check_sampling(SamplingParams(min_tokens=5, max_tokens=4), VOCAB)


@given(
    st.builds(
        SamplingParams,
        temperature=st.floats(0, limits.MAX_TEMPERATURE),
        top_p=st.floats(0, 1, exclude_min=True),
        top_k=st.integers(0, 2**31 - 1),
        min_p=st.floats(0, 1),
        seed=st.none() | st.integers(limits.MIN_SEED, limits.MAX_SEED),
        logit_bias=st.lists(st.tuples(st.integers(0, VOCAB - 1), st.floats(-100, 100)), max_size=8).map(tuple),
    )
)
def test_everything_within_the_table_passes(params: SamplingParams) -> None:
    check_sampling(params, VOCAB)
