"""Keys of one architecture, and what becomes of those that nobody read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core import ModelFileError
from penstock.model.fields import Fields
from penstock.model.gguf_keys import Keys


def keys_of(**values):
    return Keys(Fields({f"llama.{key.replace('__', '.')}": value for key, value in values.items()}, "m.gguf"), "llama")


def test_read_keys_and_neutral_values_pass():
    keys = keys_of(block_count=4, attention__causal=True, logit_scale=1.0, rope__scaling__finetuned=True, vocab_size=9)
    assert keys.integer("block_count") == 4
    keys.refuse_unread()


@pytest.mark.parametrize(
    ("key", "value"),
    [("block_count", 4), ("attention__causal", False), ("logit_scale", 0.5), ("pooling_type", 2), ("new_thing", 0)],
)
def test_what_nobody_read_is_refused_by_name(key, value):
    with pytest.raises(ModelFileError, match=rf"llama\.{key.replace('__', '.')}' is {value}, which is not supported"):
        keys_of(**{key: value}).refuse_unread()


def test_other_prefixes_are_not_this_architectures():
    Keys(Fields({"llama4.new": 1, "general.new": 2, "llamanew": 3}, "m.gguf"), "llama").refuse_unread()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_a_list_is_its_value_where_all_are_equal(values):
    keys = keys_of(counts=values)
    assert keys.get("counts") == values
    if len(set(values)) == 1:
        assert keys.integer("counts", low=0) == values[0]
    else:
        with pytest.raises(ModelFileError, match=r"llama\.counts is"):
            keys.integer("counts", low=0)


def test_types_and_bounds_are_checked():
    keys = keys_of(number=0.5, text="x", flag=True, empty=[])
    assert keys.number("number") == 0.5 and keys.positive("absent", 2.0) == 2.0
    assert keys.text("text", "y") == "x" and keys.flag("flag", False) is True
    for read in (keys.optional_integer, keys.integer, keys.number, keys.positive):
        with pytest.raises(ModelFileError, match=r"llama\.text is 'x'"):
            read("text")
    with pytest.raises(ModelFileError, match=r"llama\.empty is \[\]"):
        keys.integer("empty")
    assert str(keys.error("number", "is odd.")) == "m.gguf: llama.number is odd."
