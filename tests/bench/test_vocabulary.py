"""What words cost, found out with few questions."""

import pytest

from penstock.bench.vocabulary import FILLERS, learn_ids, learn_pieces
from penstock.bench.words import WORDS
from penstock.core import ConfigError


class Words:
    """A tokenizer of one token a word; those in `long` are two."""

    def __init__(self, long=()) -> None:
        self.long = set(long)
        self.asked = 0

    def ids(self, text: str) -> tuple[int, ...]:
        self.asked += 1
        found: list[int] = []
        for word in text.split():
            found += [hash(word) % 100_000] * (2 if word in self.long else 1)
        return tuple(found)

    def count(self, prompt, tools=()) -> int:
        return len(self.ids(prompt))


def test_words_are_what_prompts_need() -> None:
    assert len(set(WORDS)) == len(WORDS) > 400
    assert all(word.isalpha() and word.islower() and word.isascii() for word in WORDS)


def test_a_vocabulary_with_all_words_is_learnt_with_hardly_a_question() -> None:
    counter = Words()
    pieces = learn_pieces(counter)
    assert set(pieces.drawn) == {f" {word}" for word in WORDS}
    assert counter.asked < 5 + len(FILLERS)


def test_words_of_more_tokens_are_found_and_not_used() -> None:
    counter = Words(WORDS[::50])
    pieces = learn_pieces(counter)
    assert set(pieces.drawn) == {f" {word}" for word in WORDS if word not in WORDS[::50]}
    assert counter.asked < 250


def test_where_few_words_are_one_token_all_are_used_at_their_cost() -> None:
    pieces = learn_pieces(Words(WORDS[20:]))
    assert set(pieces.drawn) == {f" {word}" for word in WORDS}
    assert pieces.cost[f" {WORDS[0]}"] == 1
    assert pieces.cost[f" {WORDS[30]}"] == 2
    assert pieces.cost[pieces.filler(1, 0)] == 1
    assert pieces.filler(1, 0) != pieces.filler(1, 1)


def test_a_tokenizer_that_is_none_is_refused() -> None:
    class Nothing(Words):
        def ids(self, text: str) -> tuple[int, ...]:
            return ()

    for learn in (learn_pieces, learn_ids):
        with pytest.raises(ConfigError, match="tokenizer"):
            learn(Nothing())


def test_ids_are_those_of_ordinary_words() -> None:
    counter = Words()
    assert learn_ids(counter) == tuple(sorted(set(counter.ids(" ".join(WORDS)))))
