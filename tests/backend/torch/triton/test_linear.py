import pytest
import torch

from penstock.backend.torch.triton import linear
from penstock.backend.torch.triton.launch import interprets
from penstock.backend.torch.triton.linear import Tile, linear_kernel, tile_of

KINDS = [torch.bfloat16, torch.float32, torch.float16]


def operands(rows, channels, inputs, kind, seed=0):
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=made).to(kind)
    w = torch.randn(channels, inputs, generator=made).to(kind)
    return x, w, torch.randn(channels, generator=made)


def worst(got, want):
    return ((got.double() - want).abs() / (1 + want.abs())).max().item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "channels", "inputs"), [(1, 1, 8), (3, 65, 64), (17, 130, 150), (65, 64, 63)])
def test_products_are_those_of_float64(kind, rows, channels, inputs):
    x, w, bias = operands(rows, channels, inputs, kind)
    want = x.double() @ w.double().T + bias.double()
    assert worst(linear(x, w, bias, torch.full((rows, channels), torch.nan)), want) < 1e-5
    assert torch.equal(linear(x, w, bias), linear(x, w, bias, torch.empty(rows, channels)).to(kind))
    assert (
        worst(linear(x, w.roll(1, 1), bias, torch.empty(rows, channels)), want) > 1e-2
    )  # the oracle sees a wrong weight


@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_a_row_do_not_depend_on_the_others(kind):
    x, w, bias = operands(530, 70, 150, kind)
    alone = torch.cat([linear(x[i : i + 1], w, bias, torch.empty(1, 70)) for i in range(0, 530, 97)])
    for rows in (3, 16, 64, 257, 530):
        found = linear(x[:rows], w, bias, torch.empty(rows, 70))[::97]
        assert torch.equal(found, alone[: len(found)])


def test_bits_do_depend_on_the_order_of_sums():
    x, w, _ = operands(16, 70, 150, torch.float32)
    assert not torch.equal(linear(x, w), linear(x.flip(1), w.flip(1)))


def test_strided_rows_are_read_where_they_lie():
    x, w, _ = operands(5, 40, 64, torch.bfloat16)
    wide = torch.full((5, 200), torch.nan, dtype=torch.bfloat16)
    wide[:, 72:136] = x
    assert torch.equal(linear(wide[:, 72:136], w), linear(x, w))


def test_what_lies_beyond_the_rows_is_neither_read_nor_written():
    x, w, _ = operands(3, 40, 50, torch.bfloat16)
    around = torch.full((5, 50), torch.nan, dtype=torch.bfloat16)
    around[1:4] = x
    out = torch.full((5, 44), 7.0, dtype=torch.bfloat16)
    linear(around[1:4], w, out=out[1:4, 2:42])
    assert torch.equal(out[1:4, 2:42], linear(x, w))
    out[1:4, 2:42] = 7.0
    assert (out == 7.0).all()


def test_a_row_of_nan_stays_alone():
    x, w, _ = operands(20, 40, 50, torch.bfloat16)
    want = linear(x, w)
    x[7] = torch.nan
    got = linear(x, w)
    assert got[7].isnan().all() and torch.equal(got[:7], want[:7]) and torch.equal(got[8:], want[8:])


def test_products_of_bf16_patterns_are_caught():
    """The interpreter's own product of bf16 is of bit patterns: without widening, the oracle above must fail."""
    x, w, _ = operands(3, 65, 64, torch.bfloat16)
    assert interprets(linear_kernel)
    out = torch.empty(3, 65)
    numbers = [3, 65, 64, 64, 64, 65]
    tile = {"BLOCK_T": 16, "BLOCK_N": 64, "BLOCK_K": 64, "GROUP": 8, "EVEN_K": True, "HAS_BIAS": False}
    want = x.double() @ w.double().T
    linear_kernel[(2,)](x, w, w, out, *numbers, **tile, WIDEN=True)
    assert worst(out, want) < 1e-5
    linear_kernel[(2,)](x, w, w, out, *numbers, **tile, WIDEN=False)
    assert worst(out, want) > 1e3


def test_tensors_that_do_not_fit_are_refused():
    x, w, bias = operands(3, 40, 64, torch.bfloat16)
    with pytest.raises(ValueError, match=r"w has shape \(40, 64\); \(-1, 32\)"):
        linear(x[:, :32], w)
    with pytest.raises(ValueError, match=r"w holds torch\.bfloat16"):
        linear(x.float(), w)
    with pytest.raises(ValueError, match="bias has shape"):
        linear(x, w, bias[:39])
    with pytest.raises(ValueError, match="stride 2"):
        linear(x[:, ::2], w[:, ::2])


def test_no_rows_are_no_work():
    assert linear(torch.empty(0, 64), torch.empty(40, 64)).shape == (0, 40)


def test_a_tile_is_of_whole_instructions():
    for rows in range(1, 3000):
        tile = tile_of(rows)
        assert isinstance(tile, Tile) and tile.channels % 64 == 0 and tile.warps % 4 == 0 and tile.rows % 8 == 0
