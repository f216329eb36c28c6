"""Every matrix of a model as the kernels read it.

Knows nothing about layouts' bytes: `penstock.formats` does. Invariant: float matrices stay where the file's map has them.
"""

from __future__ import annotations

import numpy as np

from penstock import _native
from penstock.backend.cpu.loading import find, matrix_places, slice_rows
from penstock.core import ModelFileError
from penstock.formats import Storage
from penstock.model import DecoderSpec, WeightMap, WeightRef

_LAYOUTS = {Storage.F32: 0, Storage.BF16: 1, Storage.F16: 3}


def pack_all(
    spec: DecoderSpec, weights: WeightMap, pool: _native.Pool, pack_cache: bool | str
) -> tuple[dict[str, _native.Matrix], int]:
    """Place → matrix for every matrix of the spec, and the bytes that they hold.

    Raises:
        ModelFileError: a place is missing or has another shape than the spec says.
    """
    matrices: dict[str, _native.Matrix] = {}
    total = 0
    for place, shape in matrix_places(spec).items():
        ref = find(weights.tensors, place)
        raw = slice_rows(ref)
        if raw.shape != shape:
            raise ModelFileError(f"{place} has shape {raw.shape}; the model needs {shape}.")
        data = _permute(ref, raw.data, shape[0])
        matrices[place] = _native.Matrix(_LAYOUTS[raw.storage], shape[0], shape[1], data)
        total += data.nbytes
    return matrices, total


def _permute(ref: WeightRef, data: np.ndarray, count: int) -> np.ndarray:
    if ref.rows is None:
        return data
    return np.ascontiguousarray(data.reshape(count, -1)[ref.rows]).reshape(-1)
