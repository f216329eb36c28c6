"""Tiles: codes of every width and sub-scales of six bits come back, and lie where the layout says."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.formats.tiles import pack_codes, pack_sixes, pad, tile, unpack_codes, unpack_sixes, untile


def test_first_block_by_hand():
    """4-bit codes: byte 4 · channel + input of a chunk holds channel (low half) and channel + 16."""
    codes = np.zeros((32, 32), np.uint8)
    codes[3, 2], codes[19, 2], codes[5, 29] = 9, 6, 15
    packed = pack_codes(codes, 4)
    assert packed[4 * 3 + 2] == 9 | (6 << 4)
    assert packed[64 * 7 + 4 * 5 + 1] == 15
    assert np.count_nonzero(packed) == 2


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(2, 8), tiles=st.integers(1, 3), blocks=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_codes_of_any_width_come_back(bits, tiles, blocks, seed):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (32 * tiles, 32 * blocks), dtype=np.uint8)
    stored = pack_codes(codes, bits)
    assert stored.size == codes.size // 8 * bits
    np.testing.assert_array_equal(unpack_codes(stored, bits, 32 * tiles, 32 * blocks), codes)


@settings(max_examples=20, deadline=None)
@given(tiles=st.integers(1, 3), fours=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_sixes_come_back(tiles, fours, seed):
    codes = np.random.default_rng(seed).integers(0, 64, (tiles, 4 * fours, 32), dtype=np.uint8)
    stored = pack_sixes(codes)
    assert stored.size == codes.size * 6 // 8
    np.testing.assert_array_equal(unpack_sixes(stored), codes)
    changed = stored.copy()
    changed.reshape(-1)[seed % stored.size] ^= 64
    assert not np.array_equal(unpack_sixes(changed), codes)


def test_six_bits_by_hand():
    """The fourth group's code lies in the top bits of the three others, lowest pair first."""
    codes = np.zeros((1, 4, 32), np.uint8)
    codes[0, :, 5] = 1, 2, 3, 0b110110
    stored = pack_sixes(codes)
    assert stored.shape == (1, 1, 3, 32)
    assert list(stored[0, 0, :, 5]) == [1 | 0b10 << 6, 2 | 0b01 << 6, 3 | 0b11 << 6]
    assert np.count_nonzero(stored) == 3


def test_rows_become_lanes_and_are_padded():
    rows = np.arange(1, 70 * 3 + 1, dtype=np.uint8).reshape(70, 3)
    tiled = tile(rows)
    assert tiled.shape == (3, 3, 32)
    assert tiled[1, 2, 7] == rows[39, 2]
    back = untile(tiled)
    np.testing.assert_array_equal(back[:70], rows)
    assert not back[70:].any() and len(pad(rows)) == 96
