"""Which stored tensor fills which place of a `DecoderSpec`.

Knows nothing about kernels. Invariant: every place that the spec implies has exactly one `WeightRef`,
checked at load before memory is taken.

Places (names of `WeightMap.tensors`), L the layer's index:
    embed  head  head.bias  final_norm
    layers.L.attn_norm  layers.L.mlp_norm  layers.L.attn_post_norm  layers.L.mlp_post_norm
    layers.L.q  layers.L.k  layers.L.v  layers.L.o            (+ .bias)
    layers.L.q_norm  layers.L.k_norm  layers.L.sinks
    layers.L.gate  layers.L.up  layers.L.down                 (+ .bias)
    layers.L.router (+ .bias)  layers.L.experts.E.gate|up|down (+ .bias), E the expert's index
    layers.L.shared.gate|up|down  layers.L.shared.router [1, hidden]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.formats import RawTensor


@dataclass(frozen=True, slots=True)
class WeightRef:
    """A place's source: rows [first, first + count) of a stored tensor, in the order of `rows` if given.

    Attributes:
        tensor: as stored.
        first, count: output channels taken (fused projections name slices of one tensor); count -1 is all.
        rows: permutation of the taken rows (RoPE conventions), or None.
        offset: added to the values (GGUF stores some norms with +1); vectors only.
        load: makes the tensor when it is asked for, where what is stored is not its rows (transposed experts, MXFP4
            with its scales apart): same name, storage kind and shape as `tensor`, whose data is then not read.
    """

    tensor: RawTensor
    first: int = 0
    count: int = -1
    rows: npt.NDArray[np.int64] | None = None
    offset: float = 0.0
    load: Callable[[], RawTensor] | None = None


@dataclass(frozen=True, slots=True)
class WeightMap:
    """All places of one model and what a start needs to know of its files.

    `skipped` names the stored tensors of parts that are not served, such as the path of images.
    """

    tensors: Mapping[str, WeightRef]
    identity: str  # hex SHA-256 of header(s) or manifest: model identity and pack cache key
    files: tuple[str, ...]  # paths, for messages and for dropping pages after a repack
    total_bytes: int
    skipped: tuple[str, ...] = ()
