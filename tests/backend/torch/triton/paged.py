"""Ragged batches over poisoned pages, for the tests of kernels that read or write pages."""

import torch

from penstock.backend.torch.triton import Batch, Pages
from penstock.backend.torch.triton.kv_write import CODED

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
