"""Texts that break tokenizers: scripts, marks, joiners, controls, spaces of every kind, runs, and pieces of words."""

import bz2
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import strategies as st

DATA = Path(__file__).parents[3] / "shared" / "data"

PIECES = (
    "a", "Z", "the", " king", "Romeo", "HelloWorld", "é", "e\u0301", "ñ", "ß", "Ǆ", "ǅ", "ﬁ", "Ａ", "你", "好", "か",
    "カ", "한", "ㄱ", "א", "ب", "ـ", "ि", "ก", "๏", "1", "²", "٣", "Ⅷ", "½", "12345678", "'", "'s", "'LL", "’s", "ſ",
    " ", "  ", "    ", "\u00a0", "\u3000", "\u2028", "\u0085", "\t", "\n", "\n\n\n", "\r\n", "\x0b", "\x00", "\x1f",
    ".", "/", "-", "----", "====", "…", "。", "$", "+", "<=>", "€", "_", "😀", "👩\u200d👩\u200d👧", "\u200d", "\ufe0f",
    "\ufffd", "\ufdd0", "\ue000", "𝔘", "𐐀", "<|x|>", "▁", "▁▁", "<s>", "</s>", "<unk>", "<0x41>", "<u>", "##a", "[UNK]",
)  # fmt: skip
WORDS = st.lists(st.sampled_from(PIECES), max_size=16).map("".join)
RUNS = st.tuples(
    st.sampled_from([" ", "\n", "\t", "-", "1", "a", "▁"]), st.integers(0, 200), st.sampled_from(["", "x"])
)
TORTURE = WORDS | st.text(max_size=20) | RUNS.map(lambda run: run[2] + run[0] * run[1] + run[2])


def real_file(name: str) -> Path:
    """A real tokenizer file, or the test is skipped."""
    path = DATA / "tokenizers" / name
    if not path.exists():
        pytest.skip("the shared tokenizer files are not here")
    return path


def real_texts(chars: int) -> list[str]:
    """The beginnings of some real texts."""
    texts = []
    for name, count in (("classic_books_valid", 2), ("peps_train", 12)):
        path = DATA / "corpus" / f"{name}.jsonl.bz2"
        if not path.exists():
            pytest.skip("the shared corpus is not here")
        with bz2.open(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"][:chars] for line, _ in zip(lines, range(count), strict=False)]
    return texts


def merge_by_score(parts: list, score: dict) -> list:
    """The rule, word for word: merge the neighbours whose sum scores best, the leftmost first among equals."""
    parts = list(parts)
    while True:
        scored = [(score[a + b], -at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in score]
        if not scored:
            return parts
        at = -max(scored)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
