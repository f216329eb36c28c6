"""Launches whose kernels are compiled for Hopper: shapes as large as real ones, memory never touched."""

from collections.abc import Callable
from functools import partial

import torch

from penstock.backend.torch.triton import (
    Attend,
    Batch,
    Bias,
    Codes,
    Experts,
    HeadNorm,
    Masks,
    Pages,
    Penalties,
    Rotary,
    Routes,
    SampleRows,
    attend_decode,
    attend_prefill,
    device_codes,
    gated_activation,
    kv_write,
    linear,
    linear_codes,
    linear_scaled,
    mixture,
    rms_norm,
    rms_norm_codes,
    route,
    rows_as_codes,
    sample,
)
from penstock.backend.torch.triton.launch import CODED
from penstock.backend.torch.triton.linear import Tile, launch
from penstock.formats import CODE_FORMATS, CodeFormat, Storage
from penstock.formats.packed import empty

BF16 = torch.bfloat16
ATTENDED = (torch.float32, BF16, torch.int8)
KINDS_OF_CODES = (Storage.Q4_K, Storage.MXFP4)


def linear_case(rows: int, kind: torch.dtype = BF16) -> None:
    linear(torch.empty(rows, 4096, dtype=kind), torch.empty(4096, 4096, dtype=kind))


def narrow_case() -> None:
    """A tile that linear() never takes."""
    x, w = torch.empty(16, 1024, dtype=BF16), torch.empty(1024, 1024, dtype=BF16)
    launch(x, w, None, torch.empty(16, 1024, dtype=BF16), Tile(16, 32, 4, 3))


CASES = {f"linear_{rows}": partial(linear_case, rows) for rows in (1, 64, 257, 1024)}
CASES["linear_narrow"] = narrow_case
CASES["linear_f32"] = partial(linear_case, 64, torch.float32)


def norm_case(kind: torch.dtype) -> None:
    x, weight = torch.empty(8, 4096, dtype=kind), torch.empty(4096, dtype=kind)
    rms_norm(x, weight, 1e-5, x.clone())
    rms_norm_codes(x, weight, 1e-5, torch.int8)
    rows_as_codes(x, torch.float8_e4m3fn)


def activation_case(name: str) -> None:
    gated_activation(torch.empty(8, 8192, dtype=BF16), name, 7.0)


def pages_of(kind: torch.dtype, page_tokens: int = 16, kv_heads: int = 8, dim: int = 128) -> Pages:
    made = torch.empty(64, page_tokens, kv_heads, dim, dtype=kind)
    scales = torch.empty(made.shape[:3]) if made.element_size() == 1 else None
    return Pages(made, made.clone(), scales, scales)


def batch_of(num: int, rows: int, pages: int = 64) -> Batch:
    tables, starts = torch.zeros(num, pages, dtype=torch.int32), torch.arange(num + 1, dtype=torch.int32) * rows
    return Batch(tables, starts, torch.zeros(num, dtype=torch.int32), rows)


def write_case(kind: torch.dtype) -> None:
    qkv = torch.empty(256, 48, 128, dtype=BF16)
    rotary = Rotary(torch.empty(4096, 64), torch.empty(4096, 64))
    norm = HeadNorm(torch.empty(128, dtype=BF16), torch.empty(128, dtype=BF16), 1e-6)
    kv_write((qkv[:, :32], qkv[:, 32:40], qkv[:, 40:]), pages_of(kind), batch_of(256, 1), rotary, norm)


CASES["norm"] = partial(norm_case, BF16)
CASES |= {f"activation_{name}": partial(activation_case, name) for name in ("silu", "gelu")}
CASES |= {f"kv_write_{kind}": partial(write_case, kind) for kind in (BF16, torch.float8_e4m3fn)}


def attend_case(attend_rows: Callable[..., torch.Tensor], kind: torch.dtype, rows: int = 1) -> None:
    attend_rows(torch.empty(32, 32, 128, dtype=BF16), pages_of(kind), batch_of(32 // rows, rows), Attend(0.1))


CASES |= {f"decode_{kind}": partial(attend_case, attend_decode, kind) for kind in ATTENDED}
CASES |= {f"prefill_{kind}": partial(attend_case, attend_prefill, kind, 32) for kind in ATTENDED[1:]}


def codes_case(form: CodeFormat, rows: int) -> None:
    linear_codes(torch.empty(rows, 4096, dtype=BF16), device_codes(empty(form, 4096, 4096), "cpu"))


CASES |= {f"codes_{rows}": partial(codes_case, CodeFormat(4, 128, 0, 8, False), rows) for rows in (1, 257)}
CASES |= {f"codes_{kind.value}": partial(codes_case, CODE_FORMATS[kind], 1) for kind in KINDS_OF_CODES}


def scaled_case(kind: torch.dtype, rows: int) -> None:
    x, w = torch.empty(rows, 4096, dtype=kind), torch.empty(4096, 4096, dtype=kind)
    linear_scaled(Codes(x, torch.empty(rows)), Codes(w, torch.empty(4096)), BF16)


CASES |= {f"scaled_{kind}_{rows}": partial(scaled_case, kind, rows) for kind in CODED for rows in (1, 1024)}


def sample_case() -> None:
    num, vocab = 8, 151936
    whole, half = torch.empty(num, dtype=torch.int64), torch.empty(num, dtype=torch.int32)
    rows = SampleRows(*(torch.empty(num, dtype=torch.float64),) * 3, half, *(whole,) * 3)
    bias = Bias(torch.empty(num + 1, dtype=torch.int32), half, torch.empty(num), 300)
    penalties = Penalties(torch.empty(num, vocab, dtype=torch.int32), half, *(torch.empty(num),) * 3)
    masks = Masks(torch.empty(num, vocab // 8, dtype=torch.uint8), half)
    sample(torch.empty(num, vocab), rows)
    sample(torch.empty(num, vocab), rows, penalties, bias, masks)


CASES["sample"] = sample_case


def mixture_case(rows: int) -> None:
    experts = Experts(torch.empty(8, 1536, 1024, dtype=BF16), torch.empty(8, 1024, 768, dtype=BF16))
    routes = Routes(torch.zeros(rows, 4, dtype=torch.int32), torch.zeros(rows, 4))
    route(torch.zeros(rows, 8), 4, True)
    mixture(torch.empty(rows, 1024, dtype=BF16), experts, routes, "silu")


CASES |= {f"mixture_{rows}": partial(mixture_case, rows) for rows in (1, 400)}
