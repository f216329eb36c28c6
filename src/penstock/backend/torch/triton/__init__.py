"""Kernels for GPUs, one operation a file: plain tensors in, plain tensors out.

Knows nothing about models, slots or steps. Invariant: a row's bits depend on that row alone, whatever else is in the
batch: see each file for how.
"""

from penstock.backend.torch.triton.activation import gated_activation
from penstock.backend.torch.triton.attention_decode import attend_decode
from penstock.backend.torch.triton.attention_prefill import attend_prefill
from penstock.backend.torch.triton.attention_split import Attend
from penstock.backend.torch.triton.kv_write import Batch, HeadNorm, Pages, Rotary, kv_write
from penstock.backend.torch.triton.linear import linear
from penstock.backend.torch.triton.linear_codes import DeviceCodes, device_codes, linear_codes
from penstock.backend.torch.triton.linear_scaled import linear_scaled
from penstock.backend.torch.triton.moe import Experts, Routes, mixture, route
from penstock.backend.torch.triton.norm import Codes, rms_norm, rms_norm_codes, rows_as_codes
from penstock.backend.torch.triton.sampling import Bias, Chosen, Masks, Penalties, SampleRows, sample

__all__ = [
    "Attend",
    "Batch",
    "Bias",
    "Chosen",
    "Codes",
    "DeviceCodes",
    "Experts",
    "HeadNorm",
    "Masks",
    "Pages",
    "Penalties",
    "Rotary",
    "Routes",
    "SampleRows",
    "attend_decode",
    "attend_prefill",
    "device_codes",
    "gated_activation",
    "kv_write",
    "linear",
    "linear_codes",
    "linear_scaled",
    "mixture",
    "rms_norm",
    "rms_norm_codes",
    "route",
    "rows_as_codes",
    "sample",
]
