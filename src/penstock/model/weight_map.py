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
from penstock.model.dense import Family
from penstock.model.fields import shown
from penstock.model.places import all_layer_places, model_places
from penstock.model.sources import Part, Source, Stored, Wanted, wanted
from penstock.model.spec import DecoderSpec, Layer
from penstock.model.tensor_file import ByteTensor, TensorFile, identity_of, merge
from penstock.model.weights import WeightMap, WeightRef

_FLOATS = (Storage.F32, Storage.F16, Storage.BF16)
# Tables that some writers store beside the weights and that the spec already implies.
_IMPLIED = re.compile(r".*\.rotary_emb\.inv_freq|rope_(freqs|factors_(long|short))\.weight", re.ASCII)


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
    filler = _Filler(family, files, gguf)
    spec = replace(spec, tied_head=head_is_tied(spec.tied_head, filler.tensors, filler.names))
    filler.add("", model_places(spec))
    for index, (layer, shapes) in enumerate(zip(spec.layers, all_layer_places(spec), strict=True)):
        filler.add(f"layers.{index}.", shapes, layer)
    spare = filler.names["head"] + ".weight" if spec.tied_head else None
    for name in (*filler.tensors, *filler.foreign):
        if name not in filler.used and name != spare and not _IMPLIED.fullmatch(name):
            raise ModelFileError(
                f"{filler.source}: tensor {shown(name)} has no place in a {spec.family} model of "
                f"{len(spec.layers)} layers.",
                hint="the weights belong to another architecture or the config is not theirs.",
            )
    return spec, WeightMap(
        tensors=filler.refs,
        identity=identity_of(files, config),
        files=tuple(str(file.path) for file in files),
        total_bytes=sum(filler.used.values()),
        skipped=filler.skipped,
    )


class _Filler:
    """Finds a source for place after place and remembers which tensors they use.

    Attributes:
        source: the file or folder, for messages.
        refs: place → its values.
        used: stored name → bytes.
        skipped: stored names of parts that the family does not serve.
    """

    def __init__(self, family: Family, files: Sequence[TensorFile], gguf: bool) -> None:
        self.names = family.gguf_names if gguf else family.names
        self.source = str(files[0].path if len(files) == 1 else files[0].path.parent)
        tensors, foreign = merge(files)
        canonical = str if gguf else family.canonical
        named = {name: canonical(name) for name in (*tensors, *foreign)}
        self.skipped = tuple(sorted(name for name, known in named.items() if known is None))
        if len(set(named.values())) + max(len(self.skipped) - 1, 0) != len(named):
            raise ModelFileError(
                f"{self.source}: two tensors have one place.", hint="a name with and without its prefix."
            )
        self.tensors = {
            known: tensor if known == name else replace(tensor, name=known)
            for name, tensor in tensors.items()
            if (known := named[name]) is not None
        }
        self.foreign = {known: kind for name, kind in foreign.items() if (known := named[name]) is not None}
        self.refs: dict[str, WeightRef] = {}
        self.used: dict[str, int] = {}
        self._sources = family.gguf_sources if gguf else family.sources
        self._permuted = gguf and family.gguf_permuted
        self._octets = {name: tensor for file in files for name, tensor in file.octets.items()}

    def add(self, at: str, shapes: Mapping[str, tuple[int, ...]], layer: Layer | None = None) -> None:
        """Fills the places of one layer, or those outside of layers.

        Raises:
            ModelFileError: a tensor is missing or has another shape or kind than its place needs.
        """
        prefix = f"{self.names['layers']}.{at.split('.')[1]}." if layer else ""
        num_experts = layer.mlp.num_experts if layer else 0
        for place in shapes:
            want = wanted(place, num_experts, shapes)
            source, stored = self._choose(want, prefix)
            found = [self._shaped(self._find(prefix, one, want), one) for one in stored]
            for tensor in found:
                self.used[tensor.name] = len(tensor.data)
            ref = source.ref(want, found)
            rows = _rows(layer, want.key) if self._permuted and layer else None
            self.refs[at + place] = ref if rows is None else replace(ref, rows=rows)

    def _choose(self, want: Wanted, prefix: str) -> tuple[Source, tuple[Stored, ...]]:
        """The first way of storing the place whose tensors are all there, and these; where none is, the first way."""
        key = want.key
        sources = self._sources.get(key) or (Part(self.names[key]),)
        for source in sources:
            stored = source.stored(want)
            if all((name := prefix + one.name) in self.tensors or name in self.foreign for one in stored):
                return source, stored
        return sources[0], sources[0].stored(want)

    def _find(self, prefix: str, stored: Stored, want: Wanted) -> RawTensor | ByteTensor:
        name = prefix + stored.name
        if stored.octets and name in self._octets:
            return self._octets[name]
        if name in self.foreign:
            raise ModelFileError(
                f"{self.source}: tensor {name} is {self.foreign[name]}, which is not served.",
                hint=f"served: {', '.join(kind.value for kind in Storage)}.",
            )
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ModelFileError(f"{self.source}: tensor {name} is missing.")
        if stored.octets:
            raise ModelFileError(f"{self.source}: tensor {name} is {tensor.storage.value}; U8 is needed.")
        if len(want.shape) == 1 and tensor.storage not in _FLOATS:
            raise ModelFileError(
                f"{self.source}: tensor {name} is {tensor.storage.value}; a vector of floats is needed."
            )
        return tensor

    def _shaped(self, tensor: RawTensor | ByteTensor, stored: Stored) -> RawTensor | ByteTensor:
        """The tensor in the shape that its place needs; a matrix of one row may be stored as a vector."""
        if tensor.shape == stored.shape:
            return tensor
        if stored.shape[0] == 1 and tensor.shape == stored.shape[1:]:
            return replace(tensor, shape=stored.shape)
        raise ModelFileError(f"{self.source}: tensor {tensor.name} is {tensor.shape}; the config needs {stored.shape}.")


def _rows(layer: Layer, key: str) -> npt.NDArray[np.int64] | None:
    """Order in which stored rows of q and k give the half-split rotary layout; None for other places."""
    if key not in ("q", "k"):
        return None
    attention = layer.attention
    heads = attention.num_heads if key == "q" else attention.num_kv_heads
    return half_split_rows(heads, attention.head_dim)


def half_split_rows(num_heads: int, head_dim: int) -> npt.NDArray[np.int64]:
    """Row order that turns pairs stored side by side into pairs half a head apart.  # [num_heads · head_dim] i64.

    Row (h, j, i) of the half-split layout, j in 0..1 and i in 0..head_dim/2, is row (h, i, j) of the stored one.
    """
    stored = np.arange(num_heads * head_dim, dtype=np.int64).reshape(num_heads, head_dim // 2, 2)
    return np.ascontiguousarray(stored.swapaxes(1, 2)).reshape(-1)
