"""Stored tensors assigned to a spec's places.

Knows nothing about file formats. Invariant: a map that is returned fills every place of the spec with a tensor of the
right shape, and no stored tensor that would change the answer is left over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from penstock.core import ModelFileError
from penstock.formats import RawTensor, Storage
from penstock.model.dense import Family, stored_name
from penstock.model.fields import shown
from penstock.model.places import places
from penstock.model.spec import DecoderSpec
from penstock.model.tensor_file import TensorFile, identity_of, merge
from penstock.model.weights import WeightMap, WeightRef

_FLOATS = (Storage.F32, Storage.F16, Storage.BF16)
# Tables that some writers store beside the weights and that the spec already implies.
_IMPLIED = re.compile(r".*\.rotary_emb\.inv_freq|rope_freqs\.weight", re.ASCII)


def head_is_tied(tied: bool, tensors: Mapping[str, RawTensor], names: Mapping[str, str]) -> bool:
    """Whether the head is the embedding: as declared, unless the file holds a head of its own with other values."""
    head, embed = tensors.get(names["head"] + ".weight"), tensors.get(names["embed"] + ".weight")
    if not tied or head is None or embed is None:
        return tied
    return head.shape == embed.shape and head.storage is embed.storage and np.array_equal(head.data, embed.data)


def fill(
    spec: DecoderSpec, family: Family, files: Sequence[TensorFile], config: bytes, gguf: bool = False
) -> tuple[DecoderSpec, WeightMap]:
    """The spec (its tied head decided by what is stored) and the map of all its places.

    Raises:
        ModelFileError: a tensor is missing, has another shape or kind than its place needs, or is left over.
    """
    tensors, foreign = merge(files)
    names = family.gguf_names if gguf else family.names
    spec = replace(spec, tied_head=head_is_tied(spec.tied_head, tensors, names))
    source = str(files[0].path if len(files) == 1 else files[0].path.parent)
    refs: dict[str, WeightRef] = {}
    used: set[str] = set()
    for place, shape in places(spec).items():
        name = stored_name(place, names)
        tensor = _find(source, name, tensors, foreign)
        _check(source, tensor, shape)
        refs[place] = WeightRef(tensor, rows=_rows(spec, place) if gguf and family.gguf_permuted else None)
        used.add(name)
    spare = names["head"] + ".weight" if spec.tied_head else None
    for name in (*tensors, *foreign):
        if name not in used and name != spare and not _IMPLIED.fullmatch(name):
            raise ModelFileError(
                f"{source}: tensor {shown(name)} has no place in a {spec.family} model of {len(spec.layers)} layers.",
                hint="the weights belong to another architecture or the config is not theirs.",
            )
    return spec, WeightMap(
        tensors=refs,
        identity=identity_of(files, config),
        files=tuple(str(file.path) for file in files),
        total_bytes=sum(len(tensors[name].data) for name in used),
    )


def _find(source: str, name: str, tensors: Mapping[str, RawTensor], foreign: Mapping[str, str]) -> RawTensor:
    if name in foreign:
        raise ModelFileError(
            f"{source}: tensor {name} is {foreign[name]}, which is not served.",
            hint=f"served: {', '.join(kind.value for kind in Storage)}.",
        )
    if name not in tensors:
        raise ModelFileError(f"{source}: tensor {name} is missing.")
    return tensors[name]


def _check(source: str, tensor: RawTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ModelFileError(f"{source}: tensor {tensor.name} is {tensor.shape}; the config needs {shape}.")
    if len(shape) == 1 and tensor.storage not in _FLOATS:
        raise ModelFileError(f"{source}: tensor {tensor.name} is {tensor.storage.value}; a vector of floats is needed.")


def _rows(spec: DecoderSpec, place: str) -> npt.NDArray[np.int64] | None:
    """Order in which stored rows of q and k give the half-split rotary layout; None for other places."""
    parts = place.split(".")
    if parts[0] != "layers" or parts[2] not in ("q", "k"):
        return None
    attention = spec.layers[int(parts[1])].attention
    heads = attention.num_heads if parts[2] == "q" else attention.num_kv_heads
    return half_split_rows(heads, attention.head_dim)


def half_split_rows(num_heads: int, head_dim: int) -> npt.NDArray[np.int64]:
    """Row order that turns pairs stored side by side into pairs half a head apart.  # [num_heads · head_dim] i64.

    Row (h, j, i) of the half-split layout, j in 0..1 and i in 0..head_dim/2, is row (h, i, j) of the stored one.
    """
    stored = np.arange(num_heads * head_dim, dtype=np.int64).reshape(num_heads, head_dim // 2, 2)
    return np.ascontiguousarray(stored.swapaxes(1, 2)).reshape(-1)
