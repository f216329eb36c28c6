"""Packed layouts against gguf-py, against native packing byte for byte, and against their golden bytes."""

import hashlib

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import _native
from penstock.core import ModelFileError
from penstock.formats import BLOCKS, CODE_FORMATS, Layout, RawTensor, Storage, pack, unpack
from penstock.formats.packed import PackedMatrix, pack_codes, unpack_codes

KINDS = list(CODE_FORMATS)
F16_AT = {Storage.Q8_0: (0, 1), Storage.Q4_0: (0, 1), Storage.Q4_K: (0, 2), Storage.Q6_K: (208, 1)}


def blocks_of(storage, n, k, seed=0):
    """Random stored blocks with finite half-precision scales.  # [n, k / block, bytes] u8"""
    rng = np.random.default_rng(seed)
    block, size = BLOCKS[storage]
    data = rng.integers(0, 256, (n, k // block, size), dtype=np.uint8)
    at, count = F16_AT[storage]
    scales = rng.standard_normal((n, k // block, count)).astype(np.float16)
    data[:, :, at : at + 2 * count] = scales.view(np.uint8)
    return data


def raw_of(storage, n, k, seed=0):
    return RawTensor("w", storage, (n, k), blocks_of(storage, n, k, seed).reshape(-1))


def native_packer(storage, data, p, rows):
    _native.pack(_native.Pool(2), storage, data, p.n, p.k, rows, p.codes, p.scales, p.subscales, p.mins)


def arrays(packed):
    return [packed.codes, packed.scales, packed.subscales, packed.mins]


def oracle(raw):
    kind = getattr(gguf.GGMLQuantizationType, raw.storage.value)
    return gguf.dequantize(raw.data.reshape(raw.shape[0], -1), kind)


@pytest.mark.parametrize("storage", KINDS)
@pytest.mark.parametrize("n", [1, 32, 70])
@pytest.mark.parametrize("k", [256, 768])
def test_nothing_is_lost(storage, n, k):
    raw = raw_of(storage, n, k)
    np.testing.assert_array_equal(unpack(pack(raw)).view(np.uint32), oracle(raw).view(np.uint32))


@pytest.mark.parametrize("storage", KINDS)
def test_control_one_flipped_bit_is_seen(storage):
    raw = raw_of(storage, 32, 256)
    packed = pack(raw)
    packed.codes[77] ^= 1
    assert not np.array_equal(unpack(packed), oracle(raw))


@pytest.mark.parametrize("storage", KINDS)
def test_no_kind_grows_by_more_than_three_percent(storage):
    raw = raw_of(storage, 64, 512)
    assert pack(raw).num_bytes <= 1.03 * raw.data.size


@pytest.mark.parametrize("storage", KINDS)
@pytest.mark.parametrize(("n", "k"), [(1, 256), (33, 1024), (96, 256)])
@pytest.mark.parametrize("permuted", [False, True])
def test_native_packing_gives_the_same_bytes(storage, n, k, permuted):
    raw = raw_of(storage, n, k)
    rows = np.random.default_rng(5).permutation(n)[: max(1, n - 3)].astype(np.int64) if permuted else None
    for ours, native in zip(arrays(pack(raw, rows)), arrays(pack(raw, rows, packer=native_packer)), strict=True):
        assert (ours is None) == (native is None)
        if ours is not None:
            np.testing.assert_array_equal(ours, native)


def test_columns_need_not_be_a_whole_span():
    raw = raw_of(Storage.Q8_0, 40, 352)
    native = pack(raw, packer=native_packer)
    np.testing.assert_array_equal(native.codes, pack(raw).codes)
    np.testing.assert_array_equal(unpack(native), oracle(raw))


GOLDEN = {
    Storage.Q8_0: "0c453a1ffd53f703f82e11121c4b7b5d3cd38afdd7192777bdbbc6a6433daf21",
    Storage.Q4_0: "fac9d64998f8897505636061963b15434e328ab766c73d9317aa2c4e9c656fec",
    Storage.Q4_K: "b193e164ce514b4bcad0035e5996dc443841f6e519a5214da067d8159c38ec89",
    Storage.Q6_K: "160134126a7a06f577c5078b6cd63106a77202e2f449dab4e7dba847a2dce156",
}


def counted(storage):
    """Stored bytes that depend on no generator: a counter modulo a prime."""
    size = 40 * (512 // BLOCKS[storage].block) * BLOCKS[storage].bytes
    return RawTensor("w", storage, (40, 512), (np.arange(size) % 251).astype(np.uint8))


@pytest.mark.parametrize("packer", [None, native_packer], ids=["numpy", "native"])
@pytest.mark.parametrize("storage", KINDS)
def test_golden_bytes(storage, packer):
    packed = pack(counted(storage), packer=packer)
    digest = hashlib.sha256(b"".join(a.tobytes() for a in arrays(packed) if a is not None)).hexdigest()
    assert digest == GOLDEN[storage]


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
    packed = PackedMatrix(Layout.CODES, 32 * tiles, 32 * blocks, stored, bits=bits, group=32)
    np.testing.assert_array_equal(unpack_codes(packed), codes)


@pytest.mark.parametrize(
    ("storage", "dtype"), [(Storage.F32, np.float32), (Storage.F16, np.float16), (Storage.BF16, np.uint16)]
)
def test_floats_share_memory(storage, dtype):
    values = np.arange(6 * 10).astype(dtype)
    raw = RawTensor("w", storage, (6, 10), values.view(np.uint8))
    assert np.shares_memory(pack(raw).codes, values)
    run = pack(raw, np.array([2, 3, 4]))
    assert np.shares_memory(run.codes, values)
    assert run.codes.tobytes() == values.reshape(6, 10)[2:5].tobytes()
    mixed = pack(raw, np.array([4, 0]))
    assert mixed.codes.tobytes() == values.reshape(6, 10)[[4, 0]].tobytes()
    want = (values.astype(np.uint32) << 16).view(np.float32) if storage is Storage.BF16 else values.astype(np.float32)
    np.testing.assert_array_equal(unpack(mixed), want.reshape(6, 10)[[4, 0]])


def test_floats_at_odd_addresses_are_copied():
    stored = np.zeros(4 * 6 + 1, np.uint8)[1:]
    packed = pack(RawTensor("w", Storage.F32, (2, 3), stored))
    assert packed.codes.ctypes.data % 4 == 0 and not np.shares_memory(packed.codes, stored)


EMPTY = np.zeros(0, np.uint8)


@pytest.mark.parametrize(
    ("shape", "storage", "data", "rows"),
    [
        ((32,), Storage.F32, np.zeros(128, np.uint8), None),
        ((2, 3, 4), Storage.F32, np.zeros(96, np.uint8), None),
        ((0, 32), Storage.Q8_0, EMPTY, None),
        ((1, 48), Storage.Q8_0, np.zeros(51, np.uint8), None),
        ((1, 128), Storage.Q4_K, np.zeros(72, np.uint8), None),
        ((2, 32), Storage.Q8_0, np.zeros(67, np.uint8), None),
        ((2**40, 2**20), Storage.F32, EMPTY, None),
        ((2, 32), Storage.Q8_0, np.zeros(68, np.uint8), np.array([2])),
        ((2, 32), Storage.Q8_0, np.zeros(68, np.uint8), np.array([-1])),
        ((2, 32), Storage.Q8_0, np.zeros(68, np.uint8), np.zeros(0, np.int64)),
    ],
)
def test_hostile_tensors_are_refused_by_name(shape, storage, data, rows):
    with pytest.raises(ModelFileError, match="tensor blk"):
        pack(RawTensor("blk", storage, shape, data), rows)


@pytest.mark.parametrize(
    "change",
    [
        {"storage": "Q5_1"},
        {"storage": "F32"},
        {"n": 3},
        {"n": 0},
        {"n": 2**60},
        {"k": 16},
        {"k": 64},
        {"data": np.zeros(67, np.uint8)},
        {"data": EMPTY},
        {"rows": np.array([0, 2])},
        {"rows": np.array([0, -1])},
        {"rows": np.array([0])},
        {"codes": np.zeros(5, np.uint8)},
        {"scales": None},
        {"mins": np.zeros(4, np.uint8)},
    ],
    ids=str,
)
def test_native_packing_refuses_what_does_not_fit(change):
    packed = pack(raw_of(Storage.Q8_0, 2, 32))
    good = {
        "storage": "Q8_0",
        "data": np.zeros(68, np.uint8),
        "n": 2,
        "k": 32,
        "rows": None,
        "codes": packed.codes,
        "scales": packed.scales,
        "subscales": None,
        "mins": None,
    }
    pool = _native.Pool(1)
    _native.pack(pool, **good)
    with pytest.raises(ValueError):
        _native.pack(pool, **(good | change))
