"""What a run keeps of its text: held-out documents stay out, and an interrupted preparation continues."""

from pathlib import Path

import numpy as np

from penstock.train import Folders, Recipe
from penstock.train.corpus import read_documents
from penstock.train.recipe import HELD_OUT_PHASE
from penstock.train.tables import Tables, held_out_documents, learned_documents


def test_a_document_is_learned_or_held_out_never_both(recipe: Recipe, folders: Folders) -> None:
    notes = recipe.text[1]
    path = folders.corpus / "notes.jsonl"
    learned = {document.label for document in learned_documents(notes, path)}
    held_out = {document.label for document in held_out_documents(notes, folders.corpus)}
    assert held_out == {f"note {HELD_OUT_PHASE}", f"note {HELD_OUT_PHASE + 10}"}
    assert learned | held_out == {document.label for document in read_documents(path)}
    assert not learned & held_out


def test_what_is_there_is_kept_and_what_is_not_is_made(recipe: Recipe, folders: Folders, tmp_path: Path) -> None:
    said: list[str] = []
    tables = Tables(recipe, folders.corpus, tmp_path / "tables", said.append)
    first = tables.learned(recipe.text[0])
    assert said == ["learning the tokenizer", "encoding river_0.jsonl", "encoding river_1.jsonl"]
    before = [np.load(path) for path in first]
    first[1].unlink()
    said.clear()
    again = Tables(recipe, folders.corpus, tmp_path / "tables", said.append).learned(recipe.text[0])
    assert said == ["encoding river_1.jsonl"]
    assert all(np.array_equal(one, np.load(path)) for one, path in zip(before, again, strict=True))


def test_held_out_tokens_come_back_with_their_bytes(recipe: Recipe, folders: Folders, tmp_path: Path) -> None:
    tables = Tables(recipe, folders.corpus, tmp_path / "tables", lambda _: None)
    first, again = tables.held_out(recipe.text[0]), tables.held_out(recipe.text[0])
    text = next(held_out_documents(recipe.text[0], folders.corpus)).text
    assert first.num_bytes == again.num_bytes
    assert 0.95 * len(text) < first.num_bytes <= len(text)
    assert np.array_equal(first.tokens, again.tokens)
