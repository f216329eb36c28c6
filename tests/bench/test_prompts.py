"""Prompts of exact lengths by real tokenizers, against a naive maker that misses them."""

import gzip
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.bench.counters import LocalCounter
from penstock.bench.prompts import Part, PromptKind, PromptMaker
from penstock.bench.words import WORDS
from penstock.core import ConfigError
from penstock.text import Tokenizer, load_tokenizer

BUNDLED = Path(__file__).parents[2] / "src/penstock/models/bundled"
DATA = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
FILES = {
    "llama2": ("llama2_sentencepiece.model", "tokenizer.model"),
    "mistral": ("mistral_v3_sentencepiece.model", "tokenizer.model"),
    "small bytes": ("hf_tokenizer_json_torchtitan.json.gz", "tokenizer.json"),
    "wordpiece": ("hf_tokenizer_json_bert.json.gz", "tokenizer.json"),
}


SHARED = load_tokenizer(BUNDLED)


@pytest.fixture(scope="module")
def bundled() -> Tokenizer:
    return SHARED


def fresh(key: int, tokens: int) -> Part:
    return Part((0, key), tokens, fresh=True)


def num_shared(one, two) -> int:
    """How much two prompts begin alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))


def exact(maker: PromptMaker, counter: LocalCounter, lengths) -> list:
    found = []
    for number, tokens in enumerate(lengths):
        made = maker.make([fresh(number, tokens)])
        assert made.tokens == tokens
        assert counter.count(made.prompt) == tokens
        found.append(made.prompt)
    return found


@pytest.mark.parametrize("kind", [PromptKind.TEXT, PromptKind.CHAT])
def test_prompts_have_their_length_the_template_in_it(bundled: Tokenizer, kind: PromptKind) -> None:
    counter = LocalCounter(bundled)
    maker = PromptMaker(counter, kind)
    exact(maker, counter, [*range(maker.least_tokens, 60), 100, 1000, 3000])


def test_a_maker_that_forgets_the_template_misses(bundled: Tokenizer) -> None:
    """The control: as many words as tokens, each of one token, is another length to the server."""
    counter = LocalCounter(bundled)
    text = PromptMaker(counter, PromptKind.TEXT).make([fresh(0, 100)]).prompt
    assert counter.count([{"role": "user", "content": text}]) != 100


@pytest.mark.parametrize("name", FILES)
def test_real_tokenizers_of_all_kinds(tmp_path: Path, name: str) -> None:
    source, target = FILES[name]
    if not DATA.is_dir():
        pytest.skip("the published tokenizers are not here")
    data = (DATA / source).read_bytes()
    (tmp_path / target).write_bytes(gzip.decompress(data) if source.endswith(".gz") else data)
    counter = LocalCounter(load_tokenizer(tmp_path))
    maker = PromptMaker(counter)
    prompts = exact(maker, counter, [7, 8, 9, 33, 33, 512, 2000])
    assert len(set(prompts)) == len(prompts)
    naive = " ".join(WORDS[:512])
    assert counter.count(naive) != 512  # the control
    first = maker.make([Part((1, 0), 40)])
    second = maker.make([Part((1, 1), 20, "assistant"), Part((1, 2), 15)], after=first)
    assert str(second.prompt).startswith(str(first.prompt))
    assert counter.count(second.prompt) == second.tokens == 75


@given(st.data(), st.sampled_from([PromptKind.TEXT, PromptKind.CHAT]))
@settings(max_examples=60, deadline=None)
def test_any_parts_make_a_prompt_of_their_sum_that_can_go_on(data: st.DataObject, kind: PromptKind) -> None:
    counter = LocalCounter(SHARED)
    maker = PromptMaker(counter, kind)
    parts = st.builds(
        Part, st.tuples(st.integers(0, 5), st.integers(0, 2**40)), st.integers(1, 90), fresh=st.booleans()
    )
    made = None
    for turn in range(data.draw(st.integers(1, 3))):
        said = [
            *data.draw(st.lists(parts, max_size=3)),
            data.draw(st.builds(Part, st.just((turn,)), st.integers(25, 60))),
        ]
        before = [] if made is None else [Part((8, turn), data.draw(st.integers(1, 40)), "assistant")]
        total = sum(part.tokens for part in (*before, *said)) + (made.tokens if made else 0)
        grown = maker.make([*before, *said], made)
        assert counter.count(grown.prompt) == grown.tokens == total
        if made is not None:
            assert grown.prompt[: len(made.prompt)] == made.prompt
        made = grown


def test_ids_are_exact_and_from_the_vocabulary(bundled: Tokenizer) -> None:
    maker = PromptMaker(LocalCounter(bundled), PromptKind.IDS)
    made = maker.make([fresh(0, 300)])
    assert len(made.prompt) == made.tokens == 300
    assert all(bundled.token_bytes(id) and id < bundled.vocab_size for id in made.prompt)
    after = maker.make([Part((1, 0), 5, "assistant"), Part((1, 1), 6)], after=made)
    assert after.prompt[:300] == made.prompt
    assert len(after.prompt) == after.tokens == 311


@pytest.mark.parametrize("kind", PromptKind)
def test_no_two_fresh_prompts_are_alike_even_where_few_are_possible(bundled: Tokenizer, kind: PromptKind) -> None:
    maker = PromptMaker(LocalCounter(bundled), kind)
    least = maker.least_tokens + 2
    prompts = [str(maker.make([fresh(0, least)]).prompt) for _ in range(40)]  # of one key, again and again
    assert len(set(prompts)) == 40


def test_when_there_are_no_more_it_says_so(bundled: Tokenizer) -> None:
    maker = PromptMaker(LocalCounter(bundled), PromptKind.IDS)
    with pytest.raises(ConfigError, match="hardly any more different prompts of 1 tokens"):
        for number in range(5000):
            maker.make([fresh(number, 1)])


@pytest.mark.parametrize("kind", PromptKind)
def test_parts_of_one_key_begin_alike_and_the_rest_does_not(bundled: Tokenizer, kind: PromptKind) -> None:
    maker = PromptMaker(LocalCounter(bundled), kind)

    def made(*parts: Part):
        prompt = maker.make(parts).prompt
        return prompt[0]["content"] if kind is PromptKind.CHAT else prompt

    shared = Part((9, 9), 200)
    one, two = made(shared, fresh(1, 50)), made(shared, fresh(2, 70))
    common = num_shared(one, two)
    alone = made(shared)
    assert 0.95 * len(alone) <= common <= 1.1 * len(alone)
    again = made(Part((9, 9), 120), fresh(3, 20))
    assert num_shared(one, again) > 0.5 * len(alone)  # a shorter one is its beginning
    assert num_shared(made(fresh(4, 99)), made(fresh(5, 99))) < 20
    assert made(shared) == alone  # what isn't fresh may come again


def test_a_conversation_keeps_what_was_said(bundled: Tokenizer) -> None:
    counter = LocalCounter(bundled)
    maker = PromptMaker(counter, PromptKind.CHAT)
    first = maker.make([fresh(0, 40)])
    second = maker.make([Part((1, 0), 20, "assistant"), Part((1, 1), 30)], after=first)
    third = maker.make([Part((1, 2), 25, "assistant"), Part((1, 3), 30)], after=second)
    assert [message["role"] for message in third.prompt] == ["user", "assistant", "user", "assistant", "user"]
    assert third.prompt[:3] == second.prompt
    assert third.tokens == counter.count(third.prompt) == 40 + 50 + 55


def test_the_same_seed_makes_the_same_prompts_and_another_does_not(bundled: Tokenizer) -> None:
    counter = LocalCounter(bundled)
    one, two, three = (PromptMaker(counter, seed=seed).make([fresh(0, 50)]).prompt for seed in (1, 1, 2))
    assert one == two != three


def test_a_length_that_can_not_be_is_refused_with_the_shortest(bundled: Tokenizer) -> None:
    maker = PromptMaker(LocalCounter(bundled), PromptKind.CHAT)
    assert maker.least_tokens > 2
    with pytest.raises(ConfigError, match=f"exactly 2 tokens.*has {maker.least_tokens}"):
        maker.make([fresh(0, 2)])


def test_a_tokenizer_without_a_token_for_the_last_gap_is_refused_not_approached() -> None:
    class Pairs:
        """Every word is two tokens, so that no text is an odd number of them."""

        def ids(self, text: str) -> tuple[int, ...]:
            return tuple(range(2 * len(text.replace(",", " x").split())))

        def count(self, prompt, tools=()) -> int:
            return len(self.ids(prompt))

    maker = PromptMaker(Pairs())
    assert Pairs().count(maker.make([fresh(0, 24)]).prompt) == 24
    with pytest.raises(ConfigError, match="exactly 25 tokens"):
        maker.make([fresh(1, 25)])
