import io
import random

import pytest
import sentencepiece
from hypothesis import given, settings
from tests.text.torture import TORTURE, merge_by_score, real_file, real_texts
from tokenizers.models import BPE

from penstock.core import ModelFileError
from penstock.text.charsmap import CharsMap
from penstock.text.sentencepiece_model import UNIGRAM, read_spm_model
from penstock.text.spm import Kind, Pieces, SpmText, build_spm, check_pieces, score_merges

SENTENCES = [
    "the king  and Romeo walk to the  tower, 'tis the king's own word",
    "a  b   c déjà vu e\u0301 ½ ﬁ ＡＢ tab\there",
    "你好 世界 <u> hello world",
    *(f"{first} {second}ing the {second}" for first in ("Romeo", "king", "walk") for second in ("talk", "sing", "do")),
]
SETTINGS = {
    "plain": {},
    "bytes": {"byte_fallback": True},
    "llama": {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "gemma": {
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "user_defined_symbols": ["<u>", "▁▁", "\n"],
    },
    "users": {"normalization_rule_name": "identity", "user_defined_symbols": ["<u>"]},
    "compatible": {"normalization_rule_name": "nfkc"},
}


def train(kind, **settings):
    """A tiny model file, made by the SentencePiece library."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=out,
        model_type=kind,
        vocab_size=400,
        hard_vocab_limit=False,
        minloglevel=2,
        **settings,
    )
    return out.getvalue()


class Ours:
    """A model file read and built by penstock."""

    def __init__(self, data):
        model = read_spm_model(data)
        self.text = SpmText(
            model.dummy_prefix,
            model.squeeze,
            CharsMap.of(model.charsmap, model.pieces),
        )
        unigram = model.model_type == UNIGRAM
        self.hf = build_spm(model.pieces, text=self.text, unigram=unigram, escape=model.escape)

    def encode(self, text):
        return self.hf.encode(self.text(text), add_special_tokens=False).ids


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("settings_name", SETTINGS)
def test_ids_are_those_of_the_sentencepiece_library(kind, settings_name):
    data = train(kind, **SETTINGS[settings_name])
    ours, theirs = Ours(data), sentencepiece.SentencePieceProcessor(model_proto=data)

    @given(TORTURE)
    @settings(max_examples=150, deadline=None)
    def check(text):
        if kind == "unigram" and settings_name == "gemma":  # sums in single precision order runs of spaces otherwise
            text = text.replace("▁", " ").replace("   ", "")
        assert ours.encode(text) == theirs.encode(text)

    check()


def test_settings_matter():
    """The control: every setting changes some ids of this text."""
    text = " ﬁ  <u> the\n 😀 "
    assert len({tuple(Ours(train("bpe", **SETTINGS[name])).encode(text)) for name in SETTINGS}) == len(SETTINGS)


@pytest.fixture(scope="module", params=["llama2_sentencepiece.model", "mistral_v3_sentencepiece.model"])
def published(request):
    data = real_file(request.param).read_bytes()
    return Ours(data), sentencepiece.SentencePieceProcessor(model_proto=data), read_spm_model(data).pieces


@given(TORTURE)
@settings(max_examples=400, deadline=None)
def test_published_models(published, text):
    ours, theirs, _ = published
    assert ours.encode(text) == theirs.encode(text)


def test_published_models_on_real_texts(published):
    ours, theirs, _ = published
    for text in [*real_texts(20_000), *(" " * count + "x" for count in range(300))]:
        assert ours.encode(text) == theirs.encode(text)


def test_published_models_on_words_of_their_own(published):
    ours, theirs, pieces = published
    words = [pieces.names[id].replace("▁", " ") for id in pieces.of(Kind.NORMAL)]
    chance = random.Random(7)
    for _ in range(3000):
        text = "".join(chance.choices(words, k=chance.randint(1, 6)))
        assert ours.encode(text) == theirs.encode(text)


def test_published_models_where_two_merges_of_one_piece_overlap(published):
    """X, Y, Z with XY = YZ = a piece: the one case where the order of a piece's own merges can matter."""
    ours, theirs, pieces = published
    names = {pieces.names[id] for id in pieces.of(Kind.NORMAL)}
    texts = [
        name[:at] + name
        for name in names
        for at in range(1, len(name))
        if name.startswith(name[at:]) and {name[:at], name[at:]} <= names and name[len(name) - at :] in names
    ]
    assert len(texts) > 300
    for text in texts:
        assert ours.encode(text.replace("▁", " ")) == theirs.encode(text.replace("▁", " "))


def test_the_rule_itself(published):
    ours, _, pieces = published
    score = {pieces.names[id]: pieces.scores[id] for id in pieces.of(Kind.NORMAL)}
    ids = {name: id for id, name in enumerate(pieces.names)}
    for text in ("Hello  world, hello", "       x", "déjà vu", "anananas ----- ======", "xxxxxxx" * 3):
        parts = merge_by_score("▁" + text.replace(" ", "▁"), score)
        assert ours.encode(text) == [ids[part] for part in parts]


def test_another_order_of_merges_gives_other_ids():
    """The control: with ties the other way round, runs of spaces come out differently."""
    data = real_file("mistral_v3_sentencepiece.model").read_bytes()
    ours, theirs, pieces = (
        Ours(data),
        sentencepiece.SentencePieceProcessor(model_proto=data),
        read_spm_model(data).pieces,
    )
    normal = list(pieces.of(Kind.NORMAL))
    names = [pieces.names[id] for id in normal]
    rank = {pieces.names[id]: -pieces.scores[id] for id in normal}
    merges = score_merges(names, [pieces.scores[id] for id in normal], set(names))
    merges.sort(key=lambda pair: (rank["".join(pair)], len(pair[0])))
    ours.hf.model = BPE(ours.hf.get_vocab(with_added_tokens=False), merges, byte_fallback=True, unk_token="<unk>")
    assert any(ours.encode(" " * count + "x") != theirs.encode(" " * count + "x") for count in range(100))


def test_merges_are_ordered_by_score_then_by_the_left_part():
    names, scores = ["abc", "ab", "bc"], [-2.0, -1.0, -3.0]
    assert score_merges(names, scores, {"a", "b", "c", "ab", "bc"}) == [
        ("a", "b"),
        ("ab", "c"),
        ("a", "bc"),
        ("b", "c"),
    ]
    tied = score_merges(["aaa", "aaaa"], [0.0, 0.0], {"a", "aa", "aaa"})
    assert tied == [("aaa", "a"), ("aa", "aa"), ("aa", "a"), ("a", "aaa"), ("a", "aa")]


def test_scores_that_say_nothing_are_refused():
    names = [first + second for first in "abcdefghij" for second in "abcdefghij"]
    with pytest.raises(ModelFileError, match="100 pieces have the same score -1000"):
        score_merges(names, [-1000.0] * 100, set("abcdefghij"))
    assert len(score_merges(names, [-float(at) for at in range(100)], set("abcdefghij"))) == 100


def pieces(*rows):
    return Pieces([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("ab", 1, 0.0), ("a", 1, -1.0)], "'b' for one"),
        ([("ab", 5, 0.0), ("a", 1, -1.0), ("b", 1, -2.0)], "unused"),
    ],
)
def test_what_cannot_be_had_exactly_is_refused(rows, reason):
    with pytest.raises(ModelFileError, match=reason):
        build_spm(pieces(*rows), text=SpmText())


def test_pieces_are_checked():
    check_pieces(pieces(("a", 1, 0.0), ("b", 1, 0.0)))
    with pytest.raises(ModelFileError, match="'a' is listed 2 times"):
        check_pieces(pieces(("a", 1, 0.0), ("a", 1, 0.0)))
    with pytest.raises(ModelFileError, match="finite"):
        check_pieces(pieces(("a", 1, float("nan"))))


def test_text_before_the_model():
    assert SpmText()(" a  b ") == "  a  b "
    assert SpmText(squeeze=True)(" a  b ") == " a b"
    assert SpmText(dummy_prefix=False)("a") == "a"
    assert SpmText()("") == SpmText(squeeze=True)("   ") == ""
    assert SpmText(squeeze=True).shrinks and not SpmText().shrinks
