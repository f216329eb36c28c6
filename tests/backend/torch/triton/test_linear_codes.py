import numpy as np
import pytest
import torch

from penstock.backend.torch.triton import device_codes, linear_codes
from penstock.formats import CODE_FORMATS, CodeFormat, ScaleForm, Storage, pack, unpack
from penstock.formats.packed import consistent, empty
from penstock.formats.tensors import RawTensor

OTHERS = {
    "gptq": CodeFormat(4, 128, 0, 8, False),
    "awq": CodeFormat(4, 64, 0, 0, True),
    "three bits": CodeFormat(3, 32, 0, 4, False),
    "seven bits": CodeFormat(7, 16, 0, 64, False),
    "a channel": CodeFormat(8, 256, 0, 128, False),
}
FORMS = {kind.value: form for kind, form in CODE_FORMATS.items()} | OTHERS


def random_codes(form, n, k, seed=0):
    """A matrix of random codes under scales around one."""
    made = np.random.default_rng(seed)
    packed = empty(form, n, k)
    for array in (packed.codes, packed.subscales):
        if array is not None:
            array[:] = made.integers(0, 256, array.size)
    for array, halves in ((packed.scales, form.scale_form is not ScaleForm.E8M0), (packed.mins, not form.super)):
        if array is not None and halves:
            array.view(np.float16)[:] = made.normal(size=array.size // 2) / 8
        elif array is not None:
            array[:] = made.integers(120, 130, array.size)
    assert consistent(packed)
    return packed


def worst(got, want):
    return ((got.double() - want).abs().max() / want.abs().max()).item()


def rows_of(count, k, kind=torch.float32):
    return torch.randn(count, k, generator=torch.Generator().manual_seed(1)).to(kind)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_what_unpack_says(name):
    packed = random_codes(FORMS[name], 50, 256)
    x, bias = rows_of(3, 256), torch.randn(50)
    want = x.double() @ torch.from_numpy(unpack(packed)).double().T + bias.double()
    w = device_codes(packed, "cpu")
    assert worst(linear_codes(x, w, bias), want) < 2e-6
    other = w._replace(words=w.words.roll(16))  # lanes of the next vector
    assert worst(linear_codes(x, other, bias), want) > 1e-2


def test_stored_tensors_keep_their_values():
    raw = np.random.default_rng(0).integers(0, 256, (33, 2 * 18), dtype=np.uint8)
    raw[:, [1, 19]] = 0x2C  # scales that are numbers
    packed = pack(RawTensor("w", Storage.Q4_0, (33, 64), raw.reshape(-1)))
    x = torch.eye(64, dtype=torch.bfloat16)
    got = linear_codes(x, device_codes(packed, "cpu"), out=torch.empty(64, 33))
    assert torch.equal(got.T, torch.from_numpy(unpack(packed)))


def test_inputs_that_are_no_multiple_of_a_step():
    packed = random_codes(CODE_FORMATS[Storage.Q4_1], 32, 96)
    x = rows_of(2, 96)
    want = x.double() @ torch.from_numpy(unpack(packed)).double().T
    assert worst(linear_codes(x, device_codes(packed, "cpu")), want) < 2e-6


@pytest.mark.parametrize("name", ["gptq", "Q4_K"])
def test_bits_of_a_row_do_not_depend_on_the_others(name, kind=torch.bfloat16):
    w = device_codes(random_codes(FORMS[name], 30, 256), "cpu")
    x = rows_of(257, 256, kind)
    alone = torch.cat([linear_codes(x[i : i + 1], w, out=torch.empty(1, 30)) for i in (0, 63, 256)])
    for rows in (16, 64, 257):
        found = linear_codes(x[:rows], w, out=torch.empty(rows, 30))
        kept = [i for i in (0, 63, 256) if i < rows]
        assert torch.equal(found[kept], alone[: len(kept)])
    assert not torch.equal(linear_codes(x[:1] + 0.01, w, out=torch.empty(1, 30)), alone[:1])


def test_what_does_not_fit_is_refused():
    packed = random_codes(OTHERS["gptq"], 32, 256)
    w = device_codes(packed, "cpu")
    with pytest.raises(ValueError, match=r"x has shape \(1, 128\)"):
        linear_codes(rows_of(1, 128), w)
    with pytest.raises(ValueError, match="bias has shape"):
        linear_codes(rows_of(1, 256), w, torch.zeros(31))
    floats = pack(RawTensor("w", Storage.F32, (2, 2), np.zeros(16, np.uint8)))
    with pytest.raises(ValueError, match="layout F32"):
        device_codes(floats, "cpu")
    assert linear_codes(rows_of(0, 256), w).shape == (0, 32)
