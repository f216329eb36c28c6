"""What a reference of the weight map stands for: rows of a stored tensor, a vector's values.

Knows nothing about backends. Invariant: matrices stay views of their file; only vectors are copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from penstock.core import ModelFileError
from penstock.formats import RawTensor, Storage, num_bytes
from penstock.model.places import places
from penstock.model.spec import DecoderSpec
from penstock.model.weights import WeightRef

_F32 = npt.NDArray[np.float32]


def slice_rows(ref: WeightRef) -> RawTensor:
    """The stored rows that a reference names, a view of the tensor's bytes; its permutation is not applied.

    Raises:
        ModelFileError: the rows lie outside the tensor.
    """
    tensor = ref.tensor if ref.load is None else ref.load()
    total = tensor.shape[0]
    count = total - ref.first if ref.count < 0 else ref.count
    if ref.first < 0 or count < 1 or ref.first + count > total:
        raise ModelFileError(f"{tensor.name}: rows [{ref.first}, {ref.first + count}) of {total} do not exist.")
    row = num_bytes(tensor.storage, (1, *tensor.shape[1:]))
    data = tensor.data[ref.first * row : (ref.first + count) * row]
    return replace(tensor, shape=(count, *tensor.shape[1:]), data=data)


def read_vector(ref: WeightRef, offset: float = 0.0) -> _F32:
    """A norm, bias or sink as floats, both offsets added.  # [n] f32.

    Raises:
        ModelFileError: it is not stored as floats, or is no vector.
    """
    tensor = slice_rows(ref)
    if len(tensor.shape) != 1:
        raise ModelFileError(f"{tensor.name}: shape {tensor.shape} where a vector is needed.")
    raw = tensor.data
    if tensor.storage is Storage.F32:
        values = raw.view(np.float32)
    elif tensor.storage is Storage.F16:
        values = raw.view(np.float16).astype(np.float32)
    elif tensor.storage is Storage.BF16:
        values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        raise ModelFileError(f"{tensor.name}: {tensor.storage.value} where a vector of floats is needed.")
    if ref.rows is not None:
        values = values[ref.rows]
    total = np.float32(ref.offset + offset)
    return np.ascontiguousarray(values + total if total else values)


def find(refs: Mapping[str, WeightRef], place: str) -> WeightRef:
    """The reference that fills a place.

    Raises:
        ModelFileError: there is none.
    """
    ref = refs.get(place)
    if ref is None:
        raise ModelFileError(f"no tensor for {place}.", hint="the checkpoint is incomplete or of another architecture.")
    return ref


def matrix_places(spec: DecoderSpec) -> dict[str, tuple[int, int]]:
    """Every place that holds a matrix, and its (outputs, inputs)."""
    return {place: (shape[0], shape[1]) for place, shape in places(spec).items() if len(shape) == 2}
