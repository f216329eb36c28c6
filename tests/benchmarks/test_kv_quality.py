"""The quality of a rounded KV: the figures by hand, and that the reader's distributions are those of single steps."""

import gzip
import json

import numpy as np
import pytest
from benchmarks.forced import expect_texts
from benchmarks.kv_quality import PIECE, Reader, Tally, compare, read_text, spread
from tests.backend.driver import Driver, logits_of_every_position, make_backend

from penstock.assemble import find_model
from penstock.model import open_checkpoint


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(find_model(None))


def test_figures_by_hand():
    exact, found = Tally(), Tally()
    p, q = np.log([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]]), np.log([[0.25, 0.5, 0.25], [0.2, 0.7, 0.1]])
    exact.add(p, p, np.array([0, 1]))
    found.add(p, q, np.array([0, 1]))
    figures = found.figures(exact)
    assert figures["kl_max"] == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2))
    assert figures["kl_mean"] == pytest.approx(figures["kl_max"] / 2)
    assert figures["same_top_token"] == 0.5
    assert figures["loss"] == pytest.approx(-(np.log(0.25) + np.log(0.7)) / 2)
    assert figures["loss_difference"] == pytest.approx(np.log(2) / 2)


@pytest.mark.parametrize("kv_type", ["f32", "int8"])
def test_the_reader_sees_every_position_as_single_steps_do(checkpoint, kv_type):
    tokens = tuple(int(t) for t in np.random.default_rng(3).integers(6, 4000, PIECE + 9))
    found = np.concatenate(list(Reader(checkpoint, kv_type, 128, 1).read(tokens)))
    driver = Driver(make_backend(checkpoint.spec, checkpoint.weights, kv_type=kv_type))
    logits = logits_of_every_position(driver, 0, tokens).astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    np.testing.assert_allclose(found, shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)), rtol=0, atol=1e-12)


def test_rounded_types_differ_and_the_exact_one_does_not(checkpoint):
    tokens = tuple(int(t) for t in np.random.default_rng(4).integers(6, 4000, 100))
    readers = {kv_type: Reader(checkpoint, kv_type, 128, 1) for kv_type in ("f32", "bf16", "int8")}
    figures = compare(readers, [tokens, tokens[::-1]])
    assert [figures[kv_type]["positions"] for kv_type in readers] == [200] * 3
    assert figures["f32"]["kl_max"] == 0 < figures["bf16"]["kl_mean"] < figures["int8"]["kl_mean"] < 0.01


def test_windows_are_spread_over_the_text():
    assert spread(tuple(range(100)), 3, 10) == [tuple(range(at, at + 10)) for at in (0, 45, 90)]
    assert len(spread(tuple(range(25)), 64, 10)) == 2
    with pytest.raises(SystemExit, match="5 tokens"):
        spread((1, 2, 3, 4, 5), 1, 10)


def test_texts_are_read_plain_and_packed(tmp_path):
    plain, packed = tmp_path / "a.txt", tmp_path / "b.jsonl.gz"
    plain.write_text("héllo", encoding="utf-8")
    packed.write_bytes(gzip.compress("\n".join(json.dumps({"text": t}) for t in ("one", "two")).encode()))
    assert (read_text(plain), read_text(packed)) == ("héllo", "one\n\ntwo")


def test_a_text_that_is_not_there_is_said_in_one_line(tmp_path):
    there = tmp_path / "a.txt"
    there.write_text("a")
    expect_texts([there])
    with pytest.raises(SystemExit, match=r"there is no text .*b\.txt\. hint: --text FILE"):
        expect_texts([there, tmp_path / "b.txt"])
