"""GGUF's stored blocks taken apart: codes and scales as integers and halves, by rows, ready to be tiled.

Knows nothing about tiles or floats' values. Invariant: nothing is rounded; codes, scales and minima are those of the
block, moved. Source: the GGUF block layouts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from penstock.formats.gguf_blocks import (
    crumbs,
    fifth_bits,
    iq4_xs_scales,
    nibbles,
    q3_k_codes,
    q3_k_scales,
    q4_k_codes,
    q4_k_scales,
    q5_k_codes,
    q6_k_codes,
)
from penstock.formats.tensors import BLOCKS, Storage

_U8 = npt.NDArray[np.uint8]


class Parts(NamedTuple):
    """A matrix by rows, before tiling: codes [N, K] u8; the rest [N, groups or supers].

    Attributes:
        codes: as packed.
        scales: f16, or u8 exponents.
        subscales: i8; or u8 where a byte holds a scale and a minimum, or 6 bits around 32.
        super_mins: f16 that sub-minima are multiplied by.
        mins: u8 sub-minima, or f16 minima under one level.
    """

    codes: _U8
    scales: npt.NDArray[np.generic]
    subscales: npt.NDArray[np.generic] | None = None
    super_mins: npt.NDArray[np.generic] | None = None
    mins: npt.NDArray[np.generic] | None = None


def read_parts(storage: Storage, stored: _U8) -> Parts:
    """The parts of rows of blocks.  # [N, row bytes] u8."""
    n = len(stored)
    found = _READERS[storage](stored.reshape(-1, BLOCKS[storage].bytes))
    return Parts(found.codes.reshape(n, -1), *(None if a is None else a.reshape(n, -1) for a in found[1:]))  # type: ignore[arg-type]


# Blocks below: [n, bytes] u8.
def _q8_0(blocks: _U8) -> Parts:
    return Parts(blocks[:, 2:] ^ np.uint8(128), _halves(blocks[:, :2]))


def _q4_0(blocks: _U8) -> Parts:
    return Parts(nibbles(blocks[:, 2:]), _halves(blocks[:, :2]))


def _q4_1(blocks: _U8) -> Parts:
    return Parts(nibbles(blocks[:, 4:]), _halves(blocks[:, :2]), mins=_negated(blocks[:, 2:4]))


def _q5_0(blocks: _U8) -> Parts:
    return Parts(nibbles(blocks[:, 6:]) | fifth_bits(blocks[:, 2:6]), _halves(blocks[:, :2]))


def _q5_1(blocks: _U8) -> Parts:
    codes = nibbles(blocks[:, 8:]) | fifth_bits(blocks[:, 4:8])
    return Parts(codes, _halves(blocks[:, :2]), mins=_negated(blocks[:, 2:4]))


def _q2_k(blocks: _U8) -> Parts:
    return Parts(crumbs(blocks[:, 16:80]), _halves(blocks[:, 80:82]), blocks[:, :16], _halves(blocks[:, 82:84]))


def _q3_k(blocks: _U8) -> Parts:
    sixes = (q3_k_scales(blocks[:, 96:108]) + np.int8(32)).view(np.uint8)
    return Parts(q3_k_codes(blocks[:, :32], blocks[:, 32:96]), _halves(blocks[:, 108:110]), sixes)


def _q4_k(blocks: _U8) -> Parts:
    return _pairs(blocks, q4_k_codes(blocks[:, 16:]))


def _q5_k(blocks: _U8) -> Parts:
    return _pairs(blocks, q5_k_codes(blocks[:, 16:48], blocks[:, 48:]))


def _pairs(blocks: _U8, codes: _U8) -> Parts:
    """Under the head that Q4_K and Q5_K share."""
    scales, mins = q4_k_scales(blocks[:, 4:16])
    return Parts(codes, _halves(blocks[:, 0:2]), scales, _halves(blocks[:, 2:4]), mins)


def _q6_k(blocks: _U8) -> Parts:
    codes = q6_k_codes(blocks[:, :128], blocks[:, 128:192])
    return Parts(codes, _halves(blocks[:, 208:210]), np.ascontiguousarray(blocks[:, 192:208]))


def _iq4_nl(blocks: _U8) -> Parts:
    return Parts(nibbles(blocks[:, 2:]), _halves(blocks[:, :2]))


def _iq4_xs(blocks: _U8) -> Parts:
    codes = nibbles(blocks[:, 8:].reshape(-1, 16)).reshape(len(blocks), 256)
    return Parts(codes, _halves(blocks[:, :2]), iq4_xs_scales(blocks[:, 2:8]))


def _mxfp4(blocks: _U8) -> Parts:
    return Parts(nibbles(blocks[:, 1:]), blocks[:, :1])


_READERS: dict[Storage, Callable[[_U8], Parts]] = {
    Storage.Q8_0: _q8_0,
    Storage.Q4_0: _q4_0,
    Storage.Q4_1: _q4_1,
    Storage.Q5_0: _q5_0,
    Storage.Q5_1: _q5_1,
    Storage.Q2_K: _q2_k,
    Storage.Q3_K: _q3_k,
    Storage.Q4_K: _q4_k,
    Storage.Q5_K: _q5_k,
    Storage.Q6_K: _q6_k,
    Storage.IQ4_NL: _iq4_nl,
    Storage.IQ4_XS: _iq4_xs,
    Storage.MXFP4: _mxfp4,
}


def _halves(pairs: _U8) -> npt.NDArray[np.float16]:
    return np.ascontiguousarray(pairs).view(np.float16)


def _negated(pairs: _U8) -> npt.NDArray[np.uint16]:
    """The bits of an added offset's opposite: what is subtracted, as exactly as it would be added."""
    return np.ascontiguousarray(pairs).view(np.uint16) ^ np.uint16(0x8000)
