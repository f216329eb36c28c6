import pytest

from penstock.core import ModelFileError, limits
from penstock.text.added import Files, extend_pieces, rename_special
from penstock.text.spm import Kind, Pieces


def files(config=None, added=None, names=None):
    return Files(config or {}, names or {}, (), added or {})


def decoder(**entries):
    """An added_tokens_decoder: ids written t5 for 5."""
    return {"added_tokens_decoder": {key[1:]: value for key, value in entries.items()}}


def three():
    return Pieces(["<unk>", "<s>", "a"], [Kind.UNKNOWN, Kind.CONTROL, Kind.NORMAL], [0.0, 0.0, -1.0])


def test_tokens_follow_the_vocabulary():
    pieces = three()
    config = decoder(t3={"content": "<|turn|>"}, t4={"content": "<think>"}, t6={"content": "x", "special": True})
    found = extend_pieces(pieces, files(config))
    assert pieces.names == ["<unk>", "<s>", "a", "<|turn|>", "<think>", "[EMPTY_5]", "x"]
    assert pieces.kinds[3:] == [Kind.CONTROL, Kind.USER, Kind.CONTROL, Kind.CONTROL]
    assert len(pieces.scores) == 7 and sorted(found) == [3, 4, 6]


def test_tokens_of_the_vocabulary_change_their_kind():
    pieces = three()
    extend_pieces(
        pieces, files(decoder(t0={"content": "<unk>", "special": True}, t2={"content": "a", "special": True}))
    )
    assert pieces.kinds == [Kind.UNKNOWN, Kind.CONTROL, Kind.CONTROL]


def test_the_older_file_counts_less():
    pieces = three()
    extend_pieces(pieces, files(decoder(t3={"content": "new"}), added={"old": 3, "</mine>": 4, "x": True}))
    assert pieces.names[3:] == ["new", "</mine>"] and pieces.kinds[3:] == [Kind.USER, Kind.USER]
    named = three()
    extend_pieces(named, files(added={"</mine>": 3}, names={"eos_token": "</mine>"}))
    assert named.kinds[3] == Kind.CONTROL


def test_tokens_that_steer_are_marked():
    pieces = Pieces(["<unk>", "<|x|>", "<b>", "a", "<|y|>"], [2, 4, 4, 1, 1], [0.0] * 5)
    extend_pieces(pieces, files(names={"eos_token": "a"}))
    assert pieces.kinds == [Kind.UNKNOWN, Kind.CONTROL, Kind.USER, Kind.CONTROL, Kind.NORMAL]


def test_special_tokens_are_renamed():
    special = {"<s>": 0, "</s>": 1}
    config = decoder(t1={"content": "<end>", "special": True}, t12={"content": "<more>", "special": True})
    assert rename_special(special, 2, 10, files(config)) == {"<s>": 0, "<end>": 1, "<more>": 12}


@pytest.mark.parametrize(
    ("config", "added", "reason"),
    [
        (decoder(tx={"content": "y"}), None, "added token 'x' is not one"),
        (decoder(t3={"content": ""}), None, "added token '3' is not one"),
        (decoder(t3="y"), None, "added token '3' is not one"),
        (decoder(t9999999999={"content": "y"}), None, "is not one"),
        (decoder(t999999999={"content": "y"}), None, "ids up to 999999999"),
        (None, {"y": 10**30}, "ids up to"),
        (None, {"y": -1}, "ids up to -1"),
        (decoder(t3={"content": "y", "lstrip": True}), None, "minds the space around it.*hint"),
    ],
)
def test_bad_tokens_are_refused(config, added, reason):
    with pytest.raises(ModelFileError, match=reason):
        extend_pieces(three(), files(config, added))


def test_too_many_tokens_are_refused(monkeypatch):
    monkeypatch.setattr(limits, "MAX_ADDED_TOKENS", 2)
    with pytest.raises(ModelFileError, match="3 added tokens"):
        extend_pieces(three(), files(added={"x": 3, "y": 4, "z": 4, "w": 2}))


@pytest.mark.parametrize(
    ("config", "reason"),
    [(decoder(t5={"content": "y"}), "id 5 of an ordinary one"), (decoder(t1={"content": "<s>"}), "the same name")],
)
def test_special_tokens_that_clash_are_refused(config, reason):
    with pytest.raises(ModelFileError, match=reason):
        rename_special({"<s>": 0, "</s>": 1}, 2, 10, files(config))
