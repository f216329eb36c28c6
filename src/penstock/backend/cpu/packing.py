"""Every matrix of a model as the kernels read it, repacked once and cached on disk where its layout is not the file's.

Knows nothing about layouts' bytes: `penstock.formats` does. Invariant: float matrices stay where the file's map has
them, what was repacked no longer keeps its source resident, and a cache entry counts only when its places and shapes
are those of the spec.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock import _native
from penstock.backend.cpu.machine import read_machine
from penstock.backend.cpu.memory import Arena
from penstock.backend.cpu.memory import place as place_on_nodes
from penstock.core import ModelFileError
from penstock.formats import (
    CODE_FORMATS,
    FLOAT_LAYOUTS,
    Layout,
    PackCache,
    PackedMatrix,
    Packer,
    Take,
    array_bytes,
    default_folder,
    default_max_bytes,
    drop_pages,
    pack,
    zeros,
)
from penstock.model import DecoderSpec, WeightMap, find, matrix_places, slice_rows

Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]
_log = logging.getLogger(__name__)


def pack_all(
    spec: DecoderSpec, weights: WeightMap, pool: _native.Pool, pack_cache: bool | str
) -> dict[str, PackedMatrix]:
    """Place → packed matrix for every matrix of the spec.

    Args:
        spec: says which places there are.
        weights: what fills them.
        pool: threads that repack.
        pack_cache: True for the user's cache folder, False for none, or a folder.

    Raises:
        ModelFileError: a place is missing or has another shape than the spec says.
    """
    shapes = matrix_places(spec)
    coded = {p: s for p, s in shapes.items() if find(weights.tensors, p).tensor.storage not in FLOAT_LAYOUTS}
    packer = native_packer(pool)
    plain = {place: _pack_place(weights, place, shapes[place], packer) for place in shapes if place not in coded}
    return _at_home(plain, pool) | _pack_coded(weights, coded, pool, open_cache(pack_cache))


def native_packer(pool: _native.Pool) -> Packer:
    """Fills group codes on the pool's threads: the same bytes as numpy's."""

    def fill(storage: str, data: Bytes, packed: PackedMatrix, rows: Rows | None) -> None:
        _native.pack(
            pool, storage, data, packed.n, packed.k, rows, packed.codes, packed.scales, packed.subscales, packed.mins
        )

    return fill


def open_cache(pack_cache: bool | str) -> PackCache | None:
    """The cache of packed matrices, or None where it is off."""
    if not pack_cache:
        return None
    folder = default_folder(os.environ, Path.home()) if pack_cache is True else Path(pack_cache)
    return PackCache(folder, default_max_bytes(folder), lambda problem: _log.warning("%s", problem))


def to_native(packed: PackedMatrix) -> _native.Matrix:
    """The matrix as a handle that keeps its arrays alive."""
    return _native.Matrix(
        int(packed.layout),
        packed.n,
        packed.k,
        packed.codes,
        packed.scales,
        packed.subscales,
        packed.mins,
        bits=packed.bits,
        group=packed.group,
        super=packed.super,
        zero=packed.zero,
        scale_form=int(packed.scale_form),
        codebook=packed.codebook,
    )


def _pack_coded(
    weights: WeightMap, shapes: dict[str, tuple[int, int]], pool: _native.Pool, cache: PackCache | None
) -> dict[str, PackedMatrix]:
    """The matrices of group codes: mapped from the cache, else packed into memory and written to it behind the caller.

    Where they would take too much of the memory that is free they are written first and mapped, which the system may
    take back.
    """
    if not shapes:
        return {}
    key = _cache_key(weights, shapes) if cache is not None and weights.identity else None
    if cache is not None and key is not None:
        found = cache.load(key)
        if found is not None and {place: (m.n, m.k) for place, m in found.items()} == shapes:
            for place in shapes:
                drop_pages(find(weights.tensors, place).tensor.data)  # what the checks at opening touched
            return _at_home(found, pool)
    packer, sizes = native_packer(pool), _array_sizes(weights, shapes)
    if cache is not None and key is not None and not _fits(sum(sizes)):
        items = ((place, _pack_place(weights, place, shape, packer)) for place, shape in shapes.items())
        stored = cache.store(key, items, sum(sizes))
        if stored is not None:
            return _at_home(stored, pool)
    arena = Arena(Arena.room(sizes, pool.nodes), pool.nodes)
    packed = {place: _pack_place(weights, place, shape, packer, arena.take) for place, shape in shapes.items()}
    if cache is not None and key is not None:
        cache.keep(key, packed, sum(sizes))
    return packed


def _array_sizes(weights: WeightMap, shapes: dict[str, tuple[int, int]]) -> list[int]:
    """Bytes of every array of the matrices once they are packed."""
    forms = {place: CODE_FORMATS[find(weights.tensors, place).tensor.storage] for place in shapes}
    return [size for place, shape in shapes.items() for size in array_bytes(forms[place], *shape)]


def _at_home(matrices: dict[str, PackedMatrix], pool: _native.Pool) -> dict[str, PackedMatrix]:
    """Mapped matrices, copied to the nodes that compute them where there are several nodes and memory for it."""
    num_bytes = sum(matrix.num_bytes for matrix in matrices.values())
    if pool.nodes == 1 or not num_bytes:
        return matrices
    if not _fits(num_bytes):
        _log.warning(
            "weights of %d bytes stay where their file is mapped: no memory for a copy on each node", num_bytes
        )
        return matrices
    return place_on_nodes(matrices, pool)


def _fits(num_bytes: int) -> bool:
    """Whether memory that can't be given back may be taken for them: the KV needs some, too."""
    return num_bytes <= read_machine().available_bytes * 3 // 4


def _pack_place(
    weights: WeightMap, place: str, shape: tuple[int, int], packer: Packer, take: Take = zeros
) -> PackedMatrix:
    ref = find(weights.tensors, place)
    raw = slice_rows(ref)
    if raw.shape != shape:
        raise ModelFileError(f"{place} has shape {raw.shape}; the model needs {shape}.")
    packed = pack(raw, ref.rows, packer=packer, take=take)
    if packed.layout is Layout.CODES or ref.rows is not None:  # what was copied
        drop_pages(raw.data)
    return packed


def _cache_key(weights: WeightMap, shapes: dict[str, tuple[int, int]]) -> str:
    """The model's identity and how its tensors are taken: a corrected mapping never meets an older one's matrices."""
    digest = hashlib.sha256(weights.identity.encode())
    for place in sorted(shapes):
        ref = find(weights.tensors, place)
        tensor = ref.tensor
        digest.update(
            repr(
                (place, tensor.name, tensor.storage.value, tensor.shape, ref.first, ref.count, ref.load is None)
            ).encode()
        )
        if ref.rows is not None:
            digest.update(np.ascontiguousarray(ref.rows).tobytes())
    return digest.hexdigest()
