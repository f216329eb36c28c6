"""Spoiled model files: each is opened or refused in one line; and the harness that says so finds planted faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.arena import Worker, run_all
from tests.fuzz.bombs import BOMBS
from tests.fuzz.mutations import case, plain
from tests.fuzz.opening import ALLOWED_BYTES, attempt, write
from tests.fuzz.planted import PLANTED
from tests.fuzz.seeds import folder, gguf, other_tokenizer, sharded
from tests.fuzz.vocabulary_bombs import VOCABULARY_BOMBS, bpe, open_vocabulary, written

# Seeds whose cases once failed: no file named (16, 284), a library's panic on stderr
# (975), control characters of a key in a message (50004718, 50018756).
ONCE_FAILED = (16, 284, 975, 50004718, 50018756)
# The others take seconds to write; scripts/fuzz.py --bombs runs them all.
QUICK_BOMBS = (
    "config: empty objects", "config: floats", "config: open brackets", "tokenizer config: empty objects",
    "header: blanks", "header: tensors", "header: shapes", "index: many shards", "gguf: large bytes", "gguf: tensors",
    "gguf: wide strings", "tokenizer: added tokens", "tokenizer: numbers in the model", "tokenizer.model: ranks",
    "tekken: empty lists",
)  # fmt: skip
QUICK_VOCABULARIES = (
    "merges: a wrong one at the end", "unigram: long pieces", "added tokens: long", "steps: many replacements",
    "tekken: a token twice",
)  # fmt: skip

FOLDERS = (folder(), sharded(), other_tokenizer("tokenizer.model"), other_tokenizer("tekken.json"))


@pytest.mark.parametrize(
    "files",
    [{"model.gguf": gguf("gpt2").written()}, {"model.gguf": gguf("llama").written()}]
    + [{name: plain(held) for name, held in files.items()} for files in FOLDERS],
    ids=["gguf gpt2", "gguf llama", "folder", "sharded", "sentencepiece", "tekken"],
)
def test_the_seeds_are_sound(files: dict[str, bytes], tmp_path: Path) -> None:
    outcome = attempt(write(files, tmp_path / "case"))
    assert outcome.kind == "opened", outcome


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**64))
def test_what_is_spoiled_is_opened_or_refused_in_one_line(tmp_path: Path, seed: int) -> None:
    outcome = attempt(write(case(seed), tmp_path / "case"))
    assert outcome.sound, (seed, outcome)


def test_a_watched_process_finds_nothing(tmp_path: Path) -> None:
    found = [
        (seed, each) for seed, each in run_all((*ONCE_FAILED, *range(25)), Worker(tmp_path, case)) if not each.sound
    ]
    assert found == []


@pytest.mark.parametrize("name", QUICK_BOMBS)
def test_no_small_file_takes_much_memory(name: str, tmp_path: Path) -> None:
    worker = Worker(tmp_path, lambda seed: BOMBS[name]())
    ((_, outcome),) = run_all([0], worker, hang_s=60)
    assert outcome.kind == "refused", outcome


@pytest.mark.parametrize("name", QUICK_VOCABULARIES)
def test_no_vocabulary_takes_much_memory_before_it_is_refused(name: str, tmp_path: Path) -> None:
    worker = Worker(tmp_path, lambda seed: VOCABULARY_BOMBS[name](), open_vocabulary, apart=True)
    ((_, outcome),) = run_all([0], worker, hang_s=60)
    assert outcome.kind == "refused", outcome


def test_the_measure_sees_what_the_library_takes(tmp_path: Path) -> None:
    """The control: the same vocabulary without the mistake takes far more than a refusal may."""
    worker = Worker(tmp_path, lambda seed: written(bpe()), open_vocabulary, apart=True)
    ((_, outcome),) = run_all([0], worker, hang_s=60)
    assert outcome.kind == "opened" and outcome.grown_bytes > 2 * ALLOWED_BYTES, outcome


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    opener, kind = PLANTED[name]
    outcomes = dict(
        run_all([1, 2], Worker(tmp_path, lambda seed: {"model.gguf": b"x"}, opener), 0.5 if kind == "hang" else 20)
    )
    assert [outcome.kind for outcome in outcomes.values()] == [kind, kind]


def test_cases_are_the_same_for_the_same_seed() -> None:
    assert all(case(seed) == case(seed) for seed in range(5))
    assert len({tuple(case(seed).items()) for seed in range(40)}) > 35
