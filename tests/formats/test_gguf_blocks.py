"""Dequantizers: the same bits as the format's own library, on random and on extreme blocks."""

import gguf
import numpy as np
import pytest

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
