"""The converted published checkpoint opens, and its tokenizer round-trips the published text."""

from pathlib import Path

import pytest
from tests.model.llama2c import convert
from tokenizers import Tokenizer

from penstock.model import open_checkpoint

DATA = Path(__file__).parents[3] / "shared" / "data" / "tiny_model"


def test_converted_checkpoint(tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not there")
    folder = convert(DATA / "stories260K.bin", DATA / "tok512.bin", tmp_path / "stories")
    spec = open_checkpoint(folder).spec
    assert (spec.hidden, spec.vocab, len(spec.layers), spec.tied_head) == (64, 512, 5, True)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = (DATA / "expected_greedy_200_steps.txt").read_text(encoding="utf-8")
    tokens = tokenizer.encode(text).ids
    assert tokens[:5] == [1, 403, 407, 261, 378] and tokenizer.decode(tokens) == text
    assert 150 < len(tokens) <= 202  # greedy steps that gave this text: merges are found, not bytes
