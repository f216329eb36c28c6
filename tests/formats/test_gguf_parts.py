"""Blocks taken apart: integers and halves are the block's own, by rows, and nothing is rounded."""

import numpy as np
import pytest

from penstock.formats import BLOCKS, CODE_FORMATS, ScaleForm, Storage
from penstock.formats.gguf_parts import read_parts


def random_rows(storage, n=5, blocks=3, seed=0):
    size = blocks * BLOCKS[storage].bytes
    return np.random.default_rng(seed).integers(0, 256, (n, size), dtype=np.uint8)


@pytest.mark.parametrize("storage", CODE_FORMATS)
def test_parts_have_the_shapes_of_their_format(storage):
    form, k = CODE_FORMATS[storage], 3 * BLOCKS[storage].block
    parts = read_parts(storage, random_rows(storage))
    assert parts.codes.shape == (5, k) and int(parts.codes.max()) < 1 << form.bits
    assert parts.scales.shape == (5, k // (form.super or form.group))
    assert parts.scales.dtype == (np.uint8 if form.scale_form is ScaleForm.E8M0 else np.float16)
    assert (parts.subscales is not None) == bool(form.super)
    assert parts.subscales is None or parts.subscales.shape == (5, k // form.group)
    assert (parts.super_mins is not None) == bool(form.super and form.mins)
    assert (parts.mins is not None) == (form.mins and form.scale_form is ScaleForm.HALF)


@pytest.mark.parametrize("storage", CODE_FORMATS)
def test_every_stored_bit_is_in_some_part(storage):
    """Flipping any bit of a block changes its parts: nothing is dropped."""
    block = random_rows(storage, 1, 1, seed=3)
    plain = read_parts(storage, block)
    size = block.shape[1]
    flipped = np.repeat(block, 8 * size, axis=0)
    bits = np.arange(8 * size)
    flipped[bits, bits // 8] ^= (1 << (bits % 8)).astype(np.uint8)
    found = read_parts(storage, flipped)
    same = np.ones(8 * size, bool)
    for before, after in zip(plain, found, strict=True):
        if before is not None:
            same &= (before.view(np.uint8) == after.view(np.uint8)).all(axis=1)
    assert not same.any()


@pytest.mark.parametrize(("storage", "at"), [(Storage.Q4_1, 2), (Storage.Q5_1, 2)])
def test_an_added_offset_becomes_its_opposite(storage, at):
    rows = random_rows(storage, 1, 1)
    rows[0, at : at + 2] = np.array([0.5], np.float16).view(np.uint8)
    assert read_parts(storage, rows).mins.view(np.float16)[0, 0] == -0.5


def test_six_bit_scales_by_hand():
    """Scale 5 of Q3_K: low nibble in byte 5, its top bits in bits 2 and 3 of byte 8 + 1."""
    rows = np.zeros((1, 110), np.uint8)
    rows[0, 96 + 5], rows[0, 96 + 9] = 0b1010, 0b1100
    sixes = read_parts(Storage.Q3_K, rows).subscales[0]
    assert sixes[5] == 0b111010
    assert np.count_nonzero(sixes) == 1
