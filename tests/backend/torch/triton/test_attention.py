import pytest
import torch
from tests.backend.torch.triton.paged import fill, gathered, lay_out, poisoned

from penstock.backend.torch.triton import Attend, Batch, Pages, attend_decode, attend_prefill, attention_split
from penstock.backend.torch.triton.kv_write import STORED

K, GROUP, D = 2, 3, 24
ROWS, POSITIONS = [1, 3, 1, 24, 2], [0, 14, 255, 236, 256]  # around borders of pages and splits
BOTH = [attend_decode, attend_prefill]
PLAIN = Attend(D**-0.5)
KINDS = [
    PLAIN,
    Attend(D**-0.5, window=17),
    Attend(D**-0.5, window=250, softcap=1.5),
    Attend(0.5, sinks=torch.linspace(-1, 3, K * GROUP)),
]


def setting(kind=torch.float32, page_tokens=16, rows=ROWS, positions=POSITIONS, seed=0):
    batch, total = lay_out(rows, positions, page_tokens, seed)
    pages = poisoned(total, page_tokens, K, D, kind)
    fill(pages, batch, rows)
    q = torch.randn(sum(rows), K * GROUP, D, generator=torch.Generator().manual_seed(1))
    return q, pages, batch


def reference(q, pages, batch, attend):
    out = []
    for sequence in range(len(batch.positions)):
        first, end = batch.row_starts[sequence : sequence + 2].tolist()
        for row in range(first, end):
            position = int(batch.positions[sequence]) + row - first
            keys, values = (x.repeat_interleave(GROUP, 1) for x in gathered(pages, batch, sequence, position + 1))
            scores = torch.einsum("hd,thd->ht", q[row].double(), keys) * attend.scale
            if attend.softcap:
                scores = attend.softcap * torch.tanh(scores / attend.softcap)
            if attend.window:
                scores[:, : max(0, position + 1 - attend.window)] = -torch.inf
            if attend.sinks is not None:
                scores = torch.cat([scores, attend.sinks.double()[:, None]], 1)
            p = scores.softmax(-1)[:, : position + 1]
            out.append(torch.einsum("ht,thd->hd", p, values))
    return torch.stack(out)


def worst(got, want):
    return (got.double() - want).abs().max().item()


@pytest.mark.parametrize("attend_rows", BOTH)
@pytest.mark.parametrize("case", range(len(KINDS)))
def test_values_are_those_of_float64(attend_rows, case):
    q, pages, batch = setting()
    got = attend_rows(q, pages, batch, KINDS[case])
    assert worst(got, reference(q, pages, batch, KINDS[case])) < 1e-5
    other = KINDS[case - 1]._replace(scale=KINDS[case].scale)
    assert worst(got, reference(q, pages, batch, other)) > 1e-2  # another kind of attention is seen
    shifted = batch._replace(positions=(batch.positions - 1).clamp(min=0))
    assert worst(got, reference(q, pages, shifted, KINDS[case])) > 1e-2


@pytest.mark.parametrize("attend_rows", BOTH)
@pytest.mark.parametrize("kind", STORED)
def test_stored_kinds_are_read_as_they_are(attend_rows, kind):
    q, pages, batch = setting(kind, rows=[2, 1], positions=[15, 63])
    want = reference(q, pages, batch, PLAIN)
    assert worst(attend_rows(q, pages, batch, PLAIN), want) < 1e-5
    q = q.bfloat16()
    want = reference(q, pages, batch, PLAIN)
    assert 0 < worst(attend_rows(q, pages, batch, PLAIN), want) < 0.02


@pytest.mark.parametrize("page_tokens", [1, 7, 256])
def test_pages_of_any_size(page_tokens):
    rows, positions = [1, 9], [page_tokens % 60, 61]
    q, pages, batch = setting(torch.float32, page_tokens, rows, positions)
    want = reference(q, pages, batch, PLAIN)
    assert worst(attend_decode(q, pages, batch, PLAIN), want) < 1e-5
    assert torch.equal(attend_prefill(q, pages, batch, PLAIN), attend_decode(q, pages, batch, PLAIN))


@pytest.mark.parametrize("case", range(len(KINDS)))
def test_decode_verification_and_prefill_give_the_same_bits(case):
    attend = KINDS[case]
    q, pages, batch = setting(torch.bfloat16)
    q = q.bfloat16()
    together = attend_prefill(q, pages, batch, attend)
    assert torch.equal(attend_decode(q, pages, batch, attend), together)
    sequence, first = 3, int(batch.row_starts[3])
    for row, count in ((0, 1), (19, 1), (20, 3), (5, 19)):  # 256 is row 20's position
        starts = torch.tensor([0, count], dtype=torch.int32)
        place = batch.positions[sequence : sequence + 1] + row
        part = Batch(batch.tables[sequence : sequence + 1], starts, place, count)
        rows = q[first + row : first + row + count].contiguous()
        for attend_rows in BOTH:
            assert torch.equal(attend_rows(rows, pages, part, attend), together[first + row : first + row + count])


def test_bits_do_not_depend_on_places_of_pages_or_room_in_tables():
    q, pages, batch = setting(torch.int8)
    q = q.bfloat16()
    want = attend_decode(q, pages, batch, PLAIN)
    order = torch.randperm(len(pages.keys), generator=torch.Generator().manual_seed(5))
    moved = Pages(*(array[order] for array in pages))
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order))
    used = batch.tables < len(order)
    tables = torch.where(used, inverse[batch.tables.clamp(max=len(order) - 1).long()].int(), batch.tables)
    tables = torch.cat([tables, torch.full((len(ROWS), 40), 2**30, dtype=torch.int32)], 1)
    assert torch.equal(attend_decode(q, moved, batch._replace(tables=tables), PLAIN), want)
    assert not torch.equal(attend_decode(q, pages, batch._replace(tables=batch.tables.roll(1, 0) % 40), PLAIN), want)


def test_bits_do_depend_on_the_split(monkeypatch):
    q, pages, batch = setting(torch.bfloat16)
    want = attend_prefill(q, pages, batch, PLAIN)
    monkeypatch.setattr(attention_split, "SPLIT", 128)
    got = attend_prefill(q, pages, batch, PLAIN)
    assert not torch.equal(got, want) and torch.allclose(got, want, atol=1e-4)


def test_a_nan_fails_its_sequence_only():
    q, pages, batch = setting(torch.bfloat16, rows=[1, 2], positions=[20, 33])
    want = attend_decode(q, pages, batch, PLAIN)
    pages.keys[int(batch.tables[0, 0]), 3] = torch.nan
    got = attend_decode(q, pages, batch, PLAIN)
    assert got[0].isnan().all() and torch.equal(got[1:], want[1:])


def test_a_slice_of_a_step_is_a_batch():
    q, pages, batch = setting()
    want = attend_prefill(q, pages, batch, PLAIN)
    few = Batch(batch.tables[1:3], batch.row_starts[1:4], batch.positions[1:3], 3)
    assert torch.equal(attend_decode(q, pages, few, PLAIN)[1:5], want[1:5])


def test_what_does_not_fit_is_refused():
    q, pages, batch = setting(rows=[1], positions=[3])
    with pytest.raises(ValueError, match="5 heads of 24 over 2"):
        attend_decode(q[:, :5].contiguous(), pages, batch, PLAIN)
    with pytest.raises(ValueError, match="contiguous"):
        attend_prefill(torch.empty(2, 6, D)[:, :4], pages, batch, PLAIN)
    with pytest.raises(ValueError, match="sinks has shape"):
        attend_decode(q, pages, batch, Attend(1.0, sinks=torch.zeros(5)))
