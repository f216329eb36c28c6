"""Dequantizers: the same bits as the format's own library, on random and on extreme blocks."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.formats import BLOCKS, RawTensor, Storage
from penstock.formats.gguf_blocks import dequantize, dequantize_bytes

KINDS = {kind: gguf.GGMLQuantizationType[kind.value] for kind in Storage}


def oracle(data: np.ndarray, kind: Storage) -> np.ndarray:
    with np.errstate(all="ignore"):
        rows = data.reshape(-1, BLOCKS[kind].bytes)
        if kind in (Storage.F32, Storage.F16):
            rows = rows.view(np.float32 if kind is Storage.F32 else np.float16)
        return gguf.quants.dequantize(rows, KINDS[kind]).astype(np.float32).reshape(-1)


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal bit for bit, NaN payloads aside."""
    nan = np.isnan(left)
    return bool((nan == np.isnan(right)).all() and (left.view(np.uint32)[~nan] == right.view(np.uint32)[~nan]).all())


@pytest.mark.parametrize("kind", list(Storage))
def test_random_blocks_are_bit_equal(kind: Storage) -> None:
    data = np.random.default_rng(1).integers(0, 256, 400 * BLOCKS[kind].bytes, dtype=np.uint8)
    assert same_bits(dequantize_bytes(data, kind), oracle(data, kind))


@pytest.mark.parametrize("kind", list(Storage))
@pytest.mark.parametrize("byte", [0, 0x01, 0x7C, 0x7F, 0x80, 0xFF])
def test_extreme_blocks_are_bit_equal(kind: Storage, byte: int) -> None:
    data = np.full(8 * BLOCKS[kind].bytes, byte, dtype=np.uint8)
    assert same_bits(dequantize_bytes(data, kind), oracle(data, kind))


@pytest.mark.parametrize("kind", list(Storage))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_blocks_are_bit_equal(kind: Storage, data: st.DataObject) -> None:
    """Bytes of every sort, so that scales are also infinite, subnormal, no number at all."""
    size = 2 * BLOCKS[kind].bytes
    values = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8)
    assert same_bits(dequantize_bytes(values, kind), oracle(values, kind))


@pytest.mark.parametrize("kind", [kind for kind in Storage if BLOCKS[kind].block > 1 and kind is not Storage.MXFP4])
@pytest.mark.parametrize("scale", [0x0000, 0x0001, 0x03FF, 0x8001, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E01])
def test_extreme_scales_are_bit_equal(kind: Storage, scale: int) -> None:
    """Nought, subnormal, largest, infinite and no number, wherever the block keeps its halves."""
    data = np.random.default_rng(scale).integers(0, 256, (64, BLOCKS[kind].bytes), dtype=np.uint8)
    for at in (0, 2, BLOCKS[kind].bytes - 4, BLOCKS[kind].bytes - 2):
        data[:, at : at + 2] = np.array([scale], np.uint16).view(np.uint8)
    assert same_bits(dequantize_bytes(data.reshape(-1), kind), oracle(data.reshape(-1), kind))


def test_every_exponent_of_mxfp4_is_bit_equal() -> None:
    codes = np.tile(np.arange(16, dtype=np.uint8) * 17, (256, 1))
    data = np.concatenate([np.arange(256, dtype=np.uint8)[:, None], codes], axis=1).reshape(-1)
    values = dequantize_bytes(data, Storage.MXFP4)
    assert same_bits(values, oracle(data, Storage.MXFP4))
    blocks = values.reshape(256, 32)
    assert blocks[127, 1] == 0.5 and blocks[0, 1] == 2.0**-128 and blocks[255, 7] == np.inf


@pytest.mark.parametrize("kind", list(Storage))
def test_control_one_changed_bit_is_seen(kind: Storage) -> None:
    data = np.full(4 * BLOCKS[kind].bytes, 0x35, dtype=np.uint8)
    changed = data.copy()
    changed[BLOCKS[kind].bytes // 2] ^= 1
    assert not same_bits(dequantize_bytes(changed, kind), oracle(data, kind))


def test_shape_is_kept_and_partial_blocks_are_refused() -> None:
    data = np.zeros(4 * 34, dtype=np.uint8)
    assert dequantize(RawTensor("w", Storage.Q8_0, (2, 64), data)).shape == (2, 64)
    with pytest.raises(ValueError, match="no multiple"):
        dequantize_bytes(data[:-1], Storage.Q8_0)
