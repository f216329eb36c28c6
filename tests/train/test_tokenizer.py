"""The learned tokenizer: lossless on anything, specials first, sizes checked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from penstock.core.errors import ConfigError
from penstock.train.tokenizer import SPECIAL_TOKENS, tokenizer_config, train_tokenizer

LEARNED = train_tokenizer(["the cat sat on the mat and the dog sat on the cat"] * 50, 275)


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    LEARNED.encode_special_tokens = True
    ids = LEARNED.encode(text, add_special_tokens=False).ids
    assert LEARNED.decode(ids, skip_special_tokens=False) == text


def test_specials_have_the_first_ids_and_bos_comes_first() -> None:
    assert [LEARNED.token_to_id(special) for special in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert LEARNED.encode("the cat").ids[0] == 0
    assert LEARNED.get_vocab_size() == 275


def test_it_survives_being_written() -> None:
    assert Tokenizer.from_str(LEARNED.to_str()).encode("the cat sat").ids == LEARNED.encode("the cat sat").ids


@pytest.mark.parametrize("size", [0, 261, 65_537])
def test_sizes_that_cannot_work_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=str(size)):
        train_tokenizer(["text"], size)


def test_the_config_states_the_context() -> None:
    assert tokenizer_config(512)["model_max_length"] == 512
