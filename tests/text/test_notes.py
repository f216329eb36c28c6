import json
import os

import pytest
from tests.text.test_tokenizer_json import changed, good, token, write

from penstock.core import ModelFileError, limits
from penstock.text import load_tokenizer, tokenizer_json
from penstock.text.notes import Notes


@pytest.fixture
def looked(monkeypatch):
    """One entry each time a file is looked at closely."""
    seen = []
    plain = tokenizer_json.examine

    def examine(data):
        seen.append(len(data))
        return plain(data)

    monkeypatch.setattr(tokenizer_json, "examine", examine)
    return seen


def described(tokenizer):
    return tokenizer.encode("ab a<|x|>"), tokenizer.vocab_size, tokenizer.eos_token_ids


@pytest.mark.parametrize("state", [good(), changed(added_tokens=[token(4, "<s>"), token(5, "<|x|>", special=False)])])
def test_a_file_is_looked_at_once(tmp_path, looked, state):
    notes = tmp_path / "notes"
    folder = write(tmp_path, state)
    first = described(load_tokenizer(folder, notes=notes))
    assert described(load_tokenizer(folder, notes=notes)) == first == described(load_tokenizer(folder))
    assert len(looked) == 2  # the first time, and where no notes are kept
    assert [path.stat().st_mode & 0o777 for path in notes.iterdir()] == [0o600]


def test_another_file_or_other_names_are_looked_at(tmp_path, looked):
    notes = tmp_path / "notes"
    load_tokenizer(write(tmp_path, good()), notes=notes)
    (tmp_path / "tokenizer.json").write_text(json.dumps(good(), indent=1))
    load_tokenizer(tmp_path, notes=notes)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    load_tokenizer(tmp_path, notes=notes)
    assert len(looked) == 3
    assert len(list(notes.iterdir())) == 3


def test_what_is_refused_leaves_no_note(tmp_path):
    for state in (changed(model__merges=[["a", "z"]]), changed(pre_tokenizer=7)):
        with pytest.raises(ModelFileError):
            load_tokenizer(write(tmp_path, state), notes=tmp_path / "notes")
    assert not (tmp_path / "notes").exists()


def test_rows_of_the_embedding_are_minded_with_a_note_too(tmp_path):
    folder = write(tmp_path, good())
    load_tokenizer(folder, notes=tmp_path / "notes")
    with pytest.raises(ModelFileError, match="5 ids in the tokenizer, 4 embedding rows"):
        load_tokenizer(folder, notes=tmp_path / "notes", max_ids=4)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"size": -1, "added": [0, 0], "forgotten": []}',
        b'{"size": 5, "added": [9, 3], "forgotten": []}',
        b'{"size": 5, "added": [0, 99999999], "forgotten": []}',
        b'{"size": 5, "added": [0, 0], "forgotten": [7]}',
        b" " * 2_000_000,
    ],
)
def test_a_spoiled_note_is_not_believed(tmp_path, looked, note):
    folder, notes = write(tmp_path, good()), tmp_path / "notes"
    first = described(load_tokenizer(folder, notes=notes))
    [path] = notes.iterdir()
    path.write_bytes(note)
    assert described(load_tokenizer(folder, notes=notes)) == first
    assert len(looked) == 2
    load_tokenizer(folder, notes=notes)
    assert len(looked) == 2  # it was written anew


def test_a_note_that_others_may_write_is_not_believed(tmp_path, looked):
    folder, notes = write(tmp_path, good()), tmp_path / "notes"
    load_tokenizer(folder, notes=notes)
    [path] = notes.iterdir()
    path.chmod(0o666)
    load_tokenizer(folder, notes=notes)
    assert len(looked) == 2


def test_a_folder_that_can_not_be_written_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    load_tokenizer(write(tmp_path, good()), notes=tmp_path / "file" / "notes")


def test_the_notes_used_longest_ago_go(tmp_path):
    notes = Notes(tmp_path)
    for at in range(260):
        notes.keep(Notes.key(b"%d" % at), {"at": at})
        os.utime(tmp_path / (Notes.key(b"%d" % at) + ".json"), ns=(at, at))
    assert notes.find(Notes.key(b"0")) is None
    assert notes.find(Notes.key(b"259")) == {"at": 259}
    assert len(list(tmp_path.iterdir())) == 256


def test_other_limits_need_another_look(monkeypatch):
    before = Notes.key(b"x", "a")
    assert before == Notes.key(b"x", "a") != Notes.key(b"x", "b")
    monkeypatch.setattr(limits, "MAX_PIECES", 7)
    assert Notes.key(b"x", "a") != before
