"""Every weight of a model on the device, tensor by tensor.

Knows nothing about layers. Invariant: beside the device's copy the host holds a bounded part of one tensor at a time,
and what was read of the file is let go again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from penstock.core import ConfigError, ModelFileError
from penstock.formats import RawTensor, Storage, dequantize_bytes, drop_pages
from penstock.model import DecoderSpec, WeightMap, find, places, read_vector, slice_rows

WEIGHT_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
_PART_VALUES = 1 << 24  # of one part on the host: 64 MiB as floats


def resolve_weight_type(weight_type: str, weights: WeightMap) -> str:
    """The type as chosen; auto is bf16 where every matrix is stored so, else f32, which loses nothing.

    Raises:
        ConfigError: there is no such type.
    """
    if weight_type in WEIGHT_TYPES:
        return weight_type
    if weight_type != "auto":
        raise ConfigError(f"weight_type is {weight_type!r}; auto, f32 and bf16 exist.", param="weight_type")
    stored = {ref.tensor.storage for ref in weights.tensors.values() if len(ref.tensor.shape) > 1}
    return "bf16" if stored == {Storage.BF16} else "f32"


def load_weights(
    spec: DecoderSpec, weights: WeightMap, weight_type: str, device: torch.device
) -> dict[str, torch.Tensor]:
    """Place → weight on the device: matrices in the weight type, vectors in f32 with the norms' offset added.

    Args:
        spec: says which places there are.
        weights: what fills them.
        weight_type: a key of `WEIGHT_TYPES`.
        device: where to.

    Raises:
        ModelFileError: a place is missing or has another shape than the spec says.
    """
    found = {}
    for place, shape in places(spec).items():
        if len(shape) == 1:
            found[place] = _vector(spec, weights, place, shape[0]).to(device)
        else:
            found[place] = _matrix(weights, place, (shape[0], shape[1]), WEIGHT_TYPES[weight_type], device)
    return found


def _vector(spec: DecoderSpec, weights: WeightMap, place: str, count: int) -> torch.Tensor:
    """A norm, bias or sink.  # [count] f32."""
    offset = spec.norm_offset if place.endswith("norm") else 0.0
    values = read_vector(find(weights.tensors, place), offset)
    if len(values) != count:
        raise ModelFileError(f"{place} has {len(values)} values; the model needs {count}.")
    return torch.from_numpy(values.copy())


def _matrix(
    weights: WeightMap, place: str, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """A projection or the embedding.  # [N, K] dtype."""
    ref = find(weights.tensors, place)
    raw = slice_rows(ref)
    if raw.shape != shape:
        raise ModelFileError(f"{place} has shape {raw.shape}; the model needs {shape}.")
    out = torch.empty(shape, dtype=dtype, device=device)
    step = max(1, _PART_VALUES // shape[1])
    for first in range(0, shape[0], step):
        end = min(first + step, shape[0])
        out[first:end] = torch.from_numpy(_rows(raw, ref.rows, first, end)).to(device)
    drop_pages(raw.data)
    return out


def _rows(raw: RawTensor, order: npt.NDArray[np.int64] | None, first: int, end: int) -> npt.NDArray[np.float32]:
    """Rows [first, end) of the matrix as floats.  # [end - first, K] f32."""
    stored = raw.data.reshape(raw.shape[0], -1)
    part = stored[first:end] if order is None else stored[order[first:end]]
    return dequantize_bytes(part.reshape(-1), raw.storage).reshape(end - first, raw.shape[1])
