"""Matrix products of every layout on every tier, against numpy in float64 and against each other bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import _native
from penstock.formats import CODE_FORMATS, CodeFormat, Layout, ScaleForm, Storage, unpack
from penstock.formats.packed import consistent, empty
from penstock.formats.tiles import pack_codes

TIERS = _native.tiers()
BLOCK = 32


def native_matrix(p):
    return _native.Matrix(
        int(p.layout),
        p.n,
        p.k,
        p.codes,
        p.scales,
        p.subscales,
        p.mins,
        p.bits,
        p.group,
        p.super,
        p.zero,
        p.scale_form,
        p.codebook,
    )


def product(w, x, *, tier=TIERS[-1], threads=2, bias=None):
    y = np.full((len(x), w.n), np.nan, np.float32)
    _native.linear(_native.Pool(threads), _native.kernels(tier), w, x, bias, y)
    return y


def random_codes(form, n, k, seed=0):
    """A group-code matrix of random codes and scales of ordinary size."""
    rng = np.random.default_rng(seed)
    packed = empty(form, n, k)
    packed.codes[:] = rng.integers(0, 256, packed.codes.size, dtype=np.uint8)
    scales = rng.uniform(0.01, 0.02, packed.scales.size // 2) * rng.choice([-1, 1], packed.scales.size // 2)
    if form.scale_form is ScaleForm.E8M0:
        packed.scales[:] = rng.integers(118, 126, packed.scales.size, dtype=np.uint8)
    else:
        packed.scales[:] = scales.astype(np.float16).view(np.uint8)
    if packed.subscales is not None:
        packed.subscales[:] = rng.integers(-128, 128, packed.subscales.size, dtype=np.int8).view(np.uint8)
    if packed.mins is not None and form.super:
        packed.mins[:] = rng.integers(0, 256, packed.mins.size, dtype=np.uint8)
    elif packed.mins is not None:
        packed.mins[:] = rng.uniform(-1, 1, packed.mins.size // 2).astype(np.float16).view(np.uint8)
    return packed


def quantize(x):
    """Activations as the kernels round them: q · scale for each 32 inputs, in float64."""
    blocks = x.reshape(len(x), -1, BLOCK)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    usable = largest > 1e-30
    inverse = np.where(usable, np.float32(127) / np.where(usable, largest, 1), 0).astype(np.float32)
    scale = np.where(usable, largest / np.float32(127), 0).astype(np.float32)
    q = np.rint(blocks * inverse)
    return (q.astype(np.float64) * scale).reshape(x.shape)


def agrees(y, packed, x, *, quantized):
    weights = unpack(packed).astype(np.float64)
    inputs = quantize(x) if quantized else x.astype(np.float64)
    want = inputs @ weights.T
    size = np.abs(inputs) @ np.abs(weights).T
    return bool((np.abs(y - want) <= 4e-6 * size + 1e-20).all())


STORED = [pytest.param(form, id=storage.value) for storage, form in CODE_FORMATS.items()]
BOOK = bytes(range(0, 256, 17))
RARE = [
    pytest.param(CodeFormat(4, 16, 0, 100, True, codebook=BOOK), id="book-g16-min"),
    pytest.param(CodeFormat(4, 64, 256, 7, True, ScaleForm.NIBBLES, BOOK[:9] + bytes(7)), id="low-book-nibbles"),
    pytest.param(CodeFormat(8, 64, 256, 128, False, ScaleForm.SIX_BITS), id="8b-six-bits"),
    pytest.param(CodeFormat(7, 16, 0, 64, False, ScaleForm.E8M0), id="7b-g16-e8m0"),
]
FORMS = [
    pytest.param(
        CodeFormat(bits, group, sup, 1 << (bits - 1), mins), id=f"{bits}b-g{group}-s{sup}-{'min' if mins else 'sym'}"
    )
    for bits in range(2, 9)
    for group, sup, mins in [
        (16, 256, False),
        (32, 0, False),
        (32, 256, True),
        (64, 0, True),
        (64, 0, False),
        (128, 0, True),
        (256, 0, False),
        (256, 0, True),
        (768, 0, False),
    ]
]


@pytest.mark.parametrize("form", FORMS + STORED + RARE)
def test_codes_agree_with_numpy_on_every_tier(form):
    packed = random_codes(form, 70, 768)
    w = native_matrix(packed)
    x = np.random.default_rng(1).standard_normal((9, 768)).astype(np.float32)
    outputs = [product(w, x, tier=tier) for tier in TIERS]
    assert agrees(outputs[0], packed, x, quantized=True)
    for tier, y in zip(TIERS, outputs, strict=True):
        np.testing.assert_array_equal(y.view(np.uint32), outputs[0].view(np.uint32))
        for row in (0, 8):  # one row goes a way of its own
            alone = product(w, x[row : row + 1], tier=tier)
            np.testing.assert_array_equal(alone[0].view(np.uint32), y[row].view(np.uint32))


def test_control_one_wrong_code_is_seen():
    packed = random_codes(CodeFormat(8, 32, 0, 128, False), 64, 768)
    x = np.random.default_rng(1).standard_normal((2, 768)).astype(np.float32)
    y = product(native_matrix(packed), x)
    assert agrees(y, packed, x, quantized=True)
    packed.codes[5] ^= 64
    assert not agrees(y, packed, x, quantized=True)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("form", FORMS + STORED)
def test_control_a_few_wrong_bytes_of_any_array_are_seen(form, rows):
    packed = random_codes(form, 64, 768)
    x = np.random.default_rng(1).standard_normal((rows, 768)).astype(np.float32)
    y = product(native_matrix(packed), x)
    assert agrees(y, packed, x, quantized=True)
    for array in ("codes", "scales", "subscales", "mins", "codebook"):
        if getattr(packed, array) is not None:
            changed = getattr(packed, array).copy()
            changed[:64] ^= 3
            assert not agrees(y, replace(packed, **{array: changed}), x, quantized=True), array


def test_control_unquantized_inputs_are_seen():
    packed = random_codes(CodeFormat(8, 32, 0, 128, False), 64, 768)
    x = np.random.default_rng(1).standard_normal((2, 768)).astype(np.float32)
    assert not agrees(product(native_matrix(packed), x), packed, x, quantized=False)


def float_matrix(layout, n, k, seed=0):
    values = np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)
    if layout is Layout.BF16:
        data = (values.view(np.uint32) >> 16).astype(np.uint16)
    else:
        data = values.astype(np.float16) if layout is Layout.F16 else values
    from_bytes = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    return type(random_codes(CodeFormat(8, 32, 0, 128, False), 1, 32))(layout, n, k, from_bytes)


@pytest.mark.parametrize("layout", [Layout.F32, Layout.BF16, Layout.F16])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (45, 172), (70, 64), (33, 15)])
def test_floats_agree_with_numpy_on_every_tier(layout, n, k):
    packed = float_matrix(layout, n, k)
    x = np.random.default_rng(1).standard_normal((7, k)).astype(np.float32)
    bias = np.random.default_rng(2).standard_normal(n).astype(np.float32)
    outputs = [product(native_matrix(packed), x, tier=tier) for tier in TIERS]
    assert agrees(outputs[0], packed, x, quantized=False)
    for tier, y in zip(TIERS, outputs, strict=True):
        np.testing.assert_array_equal(y.view(np.uint32), outputs[0].view(np.uint32))
        np.testing.assert_array_equal(product(native_matrix(packed), x, tier=tier, bias=bias), y + bias)


FLOATS = {"BF16": Layout.BF16, "F16": Layout.F16}
LONG = {  # groups longer than a block share a scale between blocks, and between spans of blocks
    "g64": CodeFormat(4, 64, 0, 8, False),
    "g128-min": CodeFormat(4, 128, 0, 0, True),
    "g256": CodeFormat(3, 256, 0, 4, False),
    "channel": CodeFormat(8, 1280, 0, 128, False),
}
KINDS = [*FLOATS, *LONG, *(storage.value for storage in CODE_FORMATS)]


def any_matrix(kind):
    if kind in FLOATS:
        return float_matrix(FLOATS[kind], 200, 1000), 1000
    form = LONG[kind] if kind in LONG else CODE_FORMATS[Storage(kind)]
    return random_codes(form, 200, 1280), 1280


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tier", TIERS)
def test_row_count_changes_no_bit(kind, tier):
    packed, k = any_matrix(kind)
    w = native_matrix(packed)
    x = np.random.default_rng(3).standard_normal((64, k)).astype(np.float32)
    whole = product(w, x, tier=tier)
    for rows in range(1, 64, 1 if tier == TIERS[-1] else 9):
        np.testing.assert_array_equal(product(w, x[:rows], tier=tier), whole[:rows])
    np.testing.assert_array_equal(product(w, x[17:18], tier=tier), whole[17:18])


@pytest.mark.parametrize("kind", KINDS)
def test_thread_count_and_row_chunks_change_no_bit(kind):
    packed, k = any_matrix(kind)
    w = native_matrix(packed)
    x = np.random.default_rng(3).standard_normal((300, k)).astype(np.float32)
    one = product(w, x, threads=1)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(product(w, x, threads=threads), one)
    assert not np.array_equal(one, product(w, x[::-1].copy(), threads=1))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("rows", [1, 20])
def test_largest_codes_and_inputs_are_exact(tier, bits, rows):
    """255 · 127 · 2 exceeds what a saturating 16-bit pair holds."""
    n, k = 32, 64
    packed = empty(CodeFormat(bits, 32, 0, 0, False), n, k)
    packed.codes[:] = pack_codes(np.full((n, k), (1 << bits) - 1, np.uint8), bits)
    packed.scales[:] = np.ones(packed.scales.size // 2, np.float16).view(np.uint8)
    for sign in (1, -1):
        x = np.full((rows, k), sign * 127, np.float32)
        want = np.full((rows, n), sign * 127 * ((1 << bits) - 1) * k, np.float32)
        np.testing.assert_array_equal(product(native_matrix(packed), x, tier=tier), want)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("byte", [0, 1, 127, 128, 255])
@pytest.mark.parametrize("rows", [1, 20])
def test_any_byte_of_a_codebook_is_exact(tier, byte, rows):
    """Also where the whole matrix names one byte, the others being of the other half."""
    n, k = 32, 64
    for zero in (0, 128, 255):
        packed = empty(CodeFormat(4, 32, 0, zero, False, codebook=bytes([255 - byte] * 5 + [byte] + [0] * 10)), n, k)
        packed.codes[:] = pack_codes(np.full((n, k), 5, np.uint8), 4)
        packed.scales[:] = np.ones(packed.scales.size // 2, np.float16).view(np.uint8)
        for sign in (1, -1):
            x = np.full((rows, k), sign * 127, np.float32)
            want = np.full((rows, n), sign * 127 * (byte - zero) * k, np.float32)
            np.testing.assert_array_equal(product(native_matrix(packed), x, tier=tier), want)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 100, 127, 254, 255])
def test_every_exponent_is_exact(tier, exponent):
    """2^(e - 128), subnormal ones and those under which products overflow too."""
    packed = empty(CODE_FORMATS[Storage.MXFP4], 32, 32)
    packed.codes[:] = pack_codes(np.full((32, 32), 1, np.uint8), 4)
    packed.scales[:] = exponent
    x = np.full((1, 32), 127, np.float32)
    want = np.float32(127 * 32 * 2.0 ** (exponent - 128)) if exponent < 244 else np.float32(np.inf)
    np.testing.assert_array_equal(product(native_matrix(packed), x, tier=tier), np.full((1, 32), want))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_fault_in_one_row_stays_in_that_row(tier, bad):
    w = native_matrix(random_codes(CodeFormat(8, 32, 0, 128, False), 40, 128))
    x = np.random.default_rng(3).standard_normal((8, 128)).astype(np.float32)
    good = product(w, x, tier=tier)
    x[3, 77] = bad
    y = product(w, x, tier=tier)
    assert np.isnan(y[3]).all()
    np.testing.assert_array_equal(np.delete(y, 3, 0), np.delete(good, 3, 0))


@pytest.mark.parametrize("tier", TIERS)
def test_zero_and_tiny_inputs_give_zero(tier):
    w = native_matrix(random_codes(CodeFormat(4, 32, 0, 8, False), 40, 128))
    x = np.zeros((2, 128), np.float32)
    x[1] = 1e-40
    assert not product(w, x, tier=tier).any()


FLAT = np.zeros(32 * 64, np.uint8)
SCALES = np.zeros(32 * 2 * 2, np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        {"layout": 9},
        {"layout": -1},
        {"n": 0},
        {"n": -32},
        {"n": 2**62},
        {"n": 33},
        {"k": 0},
        {"k": 48},
        {"k": 2**40},
        {"codes": FLAT[:-1]},
        {"scales": SCALES[:-2]},
        {"scales": None},
        {"subscales": np.zeros(64, np.uint8)},
        {"mins": np.zeros(3, np.uint8)},
        {"bits": 1},
        {"bits": 9},
        {"group": 0},
        {"group": 24},
        {"group": -32},
        {"super": 48},
        {"super": -64},
        {"super": 64},
        {"zero": 256},
        {"zero": -1},
        {"scale_form": 1},
        {"scale_form": 2},
        {"scale_form": 3},
        {"scale_form": 4},
        {"scale_form": -1},
        {"codebook": np.zeros(16, np.uint8)},
        {"codebook": np.zeros(15, np.uint8), "bits": 4, "codes": FLAT[:1024]},
        {"scale_form": 1, "scales": np.zeros(64, np.uint8), "mins": np.zeros(64, np.uint8)},
        {"scale_form": 1, "scales": np.zeros(64, np.uint8), "super": 64},
        {"scale_form": 2, "super": 64, "subscales": np.zeros(64, np.uint8), "mins": np.zeros(64, np.uint8)},
        {"scale_form": 3, "super": 64, "scales": np.zeros(64, np.uint8), "subscales": np.zeros(48, np.uint8)},
        {"layout": 0},
        {"layout": 1, "scales": None, "codes": FLAT.repeat(2), "codebook": np.zeros(16, np.uint8)},
        {"layout": 1, "scales": None, "codes": np.zeros(32 * 64 * 2 + 1, np.uint8)[1:]},
    ],
    ids=str,
)
def test_hostile_matrix_is_refused(change):
    good = {"layout": 2, "n": 32, "k": 64, "codes": FLAT, "scales": SCALES, "bits": 8, "group": 32, "zero": 128}
    _native.Matrix(**good)
    with pytest.raises(ValueError):
        _native.Matrix(**(good | change))


def taken(packed):
    try:
        native_matrix(packed)
    except ValueError:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_the_core_takes_what_the_formats_call_consistent(data):
    """A cache file's numbers and sizes are believed by both or by neither."""
    form = (
        data.draw(st.sampled_from(list(CODE_FORMATS.values())))
        if data.draw(st.booleans())
        else CodeFormat(
            data.draw(st.integers(1, 9)),
            data.draw(st.sampled_from([16, 24, 32, 48, 64, 128, 256, 512])),
            data.draw(st.sampled_from([0, 32, 64, 128, 256, 512])),
            data.draw(st.integers(0, 256)),
            data.draw(st.booleans()),
            data.draw(st.sampled_from(ScaleForm)),
            data.draw(st.sampled_from([b"", bytes(16), bytes(15)])),
        )
    )
    k = data.draw(st.sampled_from([32, 48, 64, 96, 256, 320, 512]))
    packed = empty(form, data.draw(st.integers(1, 40)), k)
    name = data.draw(st.sampled_from(["codes", "scales", "subscales", "mins", "codebook"]))
    array = getattr(packed, name)
    size = max(0, (0 if array is None else array.size) + data.draw(st.sampled_from([0, 0, 0, -1, 1, -64, 64])))
    packed = replace(packed, **{name: np.zeros(size, np.uint8) if size else None})
    if packed.codes is not None and packed.scales is not None:
        assert taken(packed) == consistent(packed)


@pytest.mark.parametrize(
    "codes", [FLAT.view(np.int8), np.zeros(64 * 64, np.uint8)[::2], FLAT.reshape(32, 64), [0] * 2048]
)
def test_arrays_of_another_kind_are_not_converted(codes):
    with pytest.raises(TypeError):
        _native.Matrix(2, 32, 64, codes, SCALES, bits=8, group=32)


def test_inputs_of_another_shape_or_kind_are_refused():
    w = native_matrix(float_matrix(Layout.F32, 5, 8))
    pool, kernels = _native.Pool(1), _native.kernels()
    x, y = np.zeros((2, 8), np.float32), np.zeros((2, 5), np.float32)
    _native.linear(pool, kernels, w, x, None, y)
    narrow_y, short_bias = y[:, :4].copy(), np.zeros(4, np.float32)
    for bad_x, bad_bias, bad_y in [
        (x[:, :7].copy(), None, y),
        (x[:1], None, y),
        (x, short_bias, y),
        (x, None, narrow_y),
    ]:
        with pytest.raises(ValueError):
            _native.linear(pool, kernels, w, bad_x, bad_bias, bad_y)
    strided = np.zeros((8, 2), np.float32).T
    for bad_x, bad_y in [(x.astype(np.float64), y), (strided, y), (x, y.astype(np.float16)), (x[0], y)]:
        with pytest.raises(TypeError):
            _native.linear(pool, kernels, w, bad_x, None, bad_y)
    y.flags.writeable = False
    with pytest.raises(TypeError):
        _native.linear(pool, kernels, w, x, None, y)
