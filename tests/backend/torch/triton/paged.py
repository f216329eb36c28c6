"""Ragged batches over poisoned pages, for the tests of kernels that read or write pages."""

import torch

from penstock.backend.torch.triton import Batch, Pages
from penstock.backend.torch.triton.launch import CODED

NAN_CODE = {torch.int8: -128, torch.float8_e4m3fn: 127}


def poisoned(num_pages, page_tokens, kv_heads, dim, kind):
    """Pages of NaN: as codes, the worst code under a scale of NaN."""
    shape = (num_pages, page_tokens, kv_heads, dim)
    if kind not in CODED:
        return Pages(torch.full(shape, torch.nan, dtype=kind), torch.full(shape, torch.nan, dtype=kind))
    keys = torch.full(shape, NAN_CODE[kind], dtype=torch.int8).view(kind)
    scales = torch.full(shape[:3], torch.nan)
    return Pages(keys, keys.clone(), scales, scales.clone())


def lay_out(rows, positions, page_tokens, seed=0):
    """(batch, number of pages): pages dealt out in random order, unused entries of tables far outside."""
    made = torch.Generator().manual_seed(seed)
    needed = [-(-(first + count) // page_tokens) for count, first in zip(rows, positions, strict=True)]
    total = sum(needed) + 3
    order = torch.randperm(total, generator=made).tolist()
    tables = torch.full((len(rows), max(needed) + 2), 2**30, dtype=torch.int32)
    for sequence, count in enumerate(needed):
        for index in range(count):
            tables[sequence, index] = order.pop()
    starts = torch.tensor([0, *torch.tensor(rows).cumsum(0).tolist()], dtype=torch.int32)
    return Batch(tables, starts, torch.tensor(positions, dtype=torch.int32), max(rows)), total


def place(batch, sequence, position, page_tokens):
    return int(batch.tables[sequence, position // page_tokens]), position % page_tokens


def fill(pages, batch, rows, seed=0):
    """Random keys and values at every position up to the last of each sequence; the rest stays poisoned."""
    made = torch.Generator().manual_seed(seed)
    page_tokens, kv_heads, dim = pages.keys.shape[1:]
    most = {torch.int8: 127, torch.float8_e4m3fn: 448}.get(pages.keys.dtype)
    for sequence, count in enumerate(rows):
        for position in range(int(batch.positions[sequence]) + count):
            page, inside = place(batch, sequence, position, page_tokens)
            for array, scales in ((pages.keys, pages.key_scales), (pages.values, pages.value_scales)):
                x = torch.randn(kv_heads, dim, generator=made)
                if scales is None:
                    array[page, inside] = x.to(array.dtype)
                else:
                    scales[page, inside] = x.abs().amax(-1) / most
                    codes = x / scales[page, inside][:, None]
                    array[page, inside] = (codes.round() if most == 127 else codes).to(array.dtype)


def gathered(pages, batch, sequence, count):
    """(keys, values) of the first positions of a sequence as f64.  # [count, K, D]."""
    page_tokens = pages.keys.shape[1]
    where = [place(batch, sequence, position, page_tokens) for position in range(count)]
    found = []
    for array, scales in ((pages.keys, pages.key_scales), (pages.values, pages.value_scales)):
        x = torch.stack([array[p, i].double() for p, i in where])
        found.append(x if scales is None else x * torch.stack([scales[p, i].double() for p, i in where])[..., None])
    return found
