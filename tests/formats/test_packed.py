"""Packed layouts against gguf-py, against native packing byte for byte, and against their golden bytes."""

import hashlib

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import _native
from penstock.core import ModelFileError
from penstock.formats import BLOCKS, CODE_FORMATS, RawTensor, Storage, num_bytes, pack, unpack
from penstock.formats.packed import array_bytes, consistent

KINDS = list(CODE_FORMATS)
F16_AT = {
    Storage.Q4_1: (0, 2),
    Storage.Q5_1: (0, 2),
    Storage.Q2_K: (80, 2),
    Storage.Q3_K: (108, 1),
    Storage.Q4_K: (0, 2),
    Storage.Q5_K: (0, 2),
    Storage.Q6_K: (208, 1),
    Storage.MXFP4: (0, 0),
}


def blocks_of(storage, n, k, seed=0):
    """Random stored blocks with finite half-precision scales.  # [n, k / block, bytes] u8"""
    rng = np.random.default_rng(seed)
    block, size = BLOCKS[storage]
    data = rng.integers(0, 256, (n, k // block, size), dtype=np.uint8)
    at, count = F16_AT.get(storage, (0, 1))
    if storage is Storage.MXFP4:
        data[:, :, 0] = rng.integers(100, 150, data.shape[:2])
    scales = rng.standard_normal((n, k // block, count)).astype(np.float16)
    data[:, :, at : at + 2 * count] = scales.view(np.uint8)
    return data


def raw_of(storage, n, k, seed=0):
    return RawTensor("w", storage, (n, k), blocks_of(storage, n, k, seed).reshape(-1))


def native_packer(storage, data, p, rows):
    _native.pack(_native.Pool(2), storage, data, p.n, p.k, rows, p.codes, p.scales, p.subscales, p.mins)


def arrays(packed):
    return [packed.codes, packed.scales, packed.subscales, packed.mins, packed.codebook]


def oracle(raw):
    kind = getattr(gguf.GGMLQuantizationType, raw.storage.value)
    with np.errstate(over="ignore", invalid="ignore"):
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
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_nothing_is_lost_of_any_bytes(storage, data):
    """Also of scales that are infinite, subnormal or no number."""
    size = 3 * BLOCKS[storage].bytes * (256 // BLOCKS[storage].block)
    seed, shared = (
        data.draw(st.integers(0, 2**32 - 1)),
        data.draw(st.sampled_from([0, 1, 0x7C, 0x7F, 0x80, 0xFC, 0xFF])),
    )
    stored = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    stored[np.random.default_rng(seed + 1).random(size) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))] = shared
    raw = RawTensor("w", storage, (3, 256), stored)
    for packed in (pack(raw), pack(raw, packer=native_packer)):
        found, want = unpack(packed), oracle(raw)
        np.testing.assert_array_equal(found, want)
        zero = want == 0
        np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(want[zero]))


@pytest.mark.parametrize("storage", KINDS)
def test_no_kind_grows_by_more_than_three_percent(storage):
    raw = raw_of(storage, 64, 512)
    packed = pack(raw)
    assert packed.num_bytes <= 1.03 * raw.data.size
    assert consistent(packed)
    form = CODE_FORMATS[storage]
    assert packed.code_format == form
    for n, k in [(4096, 14336), (2880, 2880 // 256 * 256), (128, 8192)]:
        stored = num_bytes(storage, (n, k))
        assert sum(array_bytes(form, n, k)) + len(form.codebook) <= 1.03 * stored


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


@pytest.mark.parametrize("storage", [kind for kind in KINDS if BLOCKS[kind].block == 32])
def test_columns_need_not_be_a_whole_span(storage):
    raw = raw_of(storage, 40, 352)
    native = pack(raw, packer=native_packer)
    np.testing.assert_array_equal(native.codes, pack(raw).codes)
    np.testing.assert_array_equal(unpack(native), oracle(raw))


GOLDEN = {
    Storage.Q8_0: "0c453a1ffd53f703f82e11121c4b7b5d3cd38afdd7192777bdbbc6a6433daf21",
    Storage.Q4_0: "fac9d64998f8897505636061963b15434e328ab766c73d9317aa2c4e9c656fec",
    Storage.Q4_1: "2da6414fc2dad6ae137f509066622d586f7ad2befb9a55e7f6f6e6bb9a9e6308",
    Storage.Q5_0: "e3c18e755f623399fe0903b75c41cb7a302b84ddb5520cb4d64b02ec74e3b9eb",
    Storage.Q5_1: "e15897c424a66c8a314e741af1d4fce62a2cab143a0bf639ae37e94fc561810e",
    Storage.Q2_K: "6f0c9a8d6a65a299e4a9394a979bf03ea0c956c87de90e36e44b033cca877d23",
    Storage.Q3_K: "44cd8ac83afd805fe22104c5185beb523401b5b4cc91d2449cc82268c0ca3f0d",
    Storage.Q4_K: "b193e164ce514b4bcad0035e5996dc443841f6e519a5214da067d8159c38ec89",
    Storage.Q5_K: "473ea3d14b29ae8a9ad644ccf6ea93a76e53526760f734848b469740bf7a9417",
    Storage.Q6_K: "160134126a7a06f577c5078b6cd63106a77202e2f449dab4e7dba847a2dce156",
    Storage.IQ4_NL: "5b4aef1393663c4a21b91d4fa7ec1418dc7480bb0fe06d2b39111c52cbb0e873",
    Storage.IQ4_XS: "05dca80acd5fdef44b98397084cd8983ee96a4e1bf7503400fc34b60249b19cf",
    Storage.MXFP4: "749bb318efc72b6f9d9d2bd26d3013a8153cf3e9c2a680fb8c0b4babd8224509",
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
        {"storage": "IQ2_XS"},
        {"storage": "MXFP4"},
        {"storage": "Q3_K"},
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
