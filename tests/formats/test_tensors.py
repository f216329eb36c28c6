"""Sizes of stored tensors: those of the format's own library, for the kinds read here and for those that are not."""

import gguf
import pytest

from penstock.formats import BLOCKS, FOREIGN_BLOCKS, Storage, foreign_bytes, num_bytes

SIZES = {kind.name: size for kind, size in gguf.GGML_QUANT_SIZES.items()}


def count(kind, shape):
    return num_bytes(Storage(kind), shape) if kind in Storage.__members__ else foreign_bytes(kind, shape)


def test_every_kind_of_the_format_has_its_size():
    ours = {kind.value: form for kind, form in BLOCKS.items()} | FOREIGN_BLOCKS
    assert {name: tuple(form) for name, form in ours.items()} == SIZES


def test_no_kind_is_both_read_and_foreign():
    assert not {kind.value for kind in Storage} & set(FOREIGN_BLOCKS)
    assert set(BLOCKS) == set(Storage)


@pytest.mark.parametrize("kind", sorted(SIZES))
def test_bytes_are_counted_in_unbounded_integers(kind):
    block, size = SIZES[kind]
    assert count(kind, (3, 2 * block)) == 6 * size
    assert count(kind, (2**62, 2**62 * block)) == 2**124 * size
    if block > 1:
        with pytest.raises(ValueError, match=f"not a multiple of the {kind} block of {block}"):
            count(kind, (2, block + 1))
