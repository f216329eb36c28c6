"""Tiles of 32 output channels: the order in which packed codes, scales and sub-scales lie.

Knows nothing about storage kinds or what the numbers mean. Invariant: every function here moves bits and has its
reverse; `packed.py` says where each piece lies.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

LANES = 32

Bytes = npt.NDArray[np.uint8]
_Item = TypeVar("_Item", bound=np.generic)


def pack_codes(codes: npt.NDArray[np.uint8], bits: int) -> Bytes:
    """Codes in tiles and planes. codes: [N, K], N a multiple of 32 and K of 32 # u8 → flat u8."""
    lanes, k = codes.shape
    blocks = codes.reshape(lanes // LANES, 2, 16, k // 32, 8, 4).transpose(0, 3, 4, 1, 2, 5)
    vectors = blocks.reshape(lanes // LANES, k // 32, 16, 64)
    planes = []
    shift = 0
    for width in _planes(bits):
        per = 8 // width
        part = ((vectors >> shift) & ((1 << width) - 1)).reshape(*vectors.shape[:2], 16 // per, per, 64)
        shifts = (np.arange(per, dtype=np.uint8) * width)[:, None]
        planes.append(np.bitwise_or.reduce(part << shifts, axis=3).reshape(*vectors.shape[:2], -1))
        shift += width
    return np.ascontiguousarray(np.concatenate(planes, axis=2)).reshape(-1)


def unpack_codes(stored: Bytes, bits: int, lanes: int, k: int) -> Bytes:
    """The codes again, [lanes, K] u8, lanes a multiple of 32."""
    tiles, blocks = lanes // LANES, k // 32
    planes = stored.reshape(tiles, blocks, bits * 128)
    vectors = np.zeros((tiles, blocks, 16, 64), np.uint8)
    start = shift = 0
    for width in _planes(bits):
        per = 8 // width
        part = planes[:, :, start : start + 128 * width].reshape(tiles, blocks, 16 // per, 1, 64)
        shifts = (np.arange(per, dtype=np.uint8) * width)[:, None]
        values = (part >> shifts) & ((1 << width) - 1)
        vectors |= (values.reshape(vectors.shape) << shift).astype(np.uint8)
        start += 128 * width
        shift += width
    channels = vectors.reshape(tiles, blocks, 8, 2, 16, 4).transpose(0, 3, 4, 1, 2, 5)
    return channels.reshape(lanes, k)


def _planes(bits: int) -> list[int]:
    if bits == 8:
        return [8]
    return [width for width in (4, 2, 1) if bits & width]


def padded(n: int) -> int:
    """Channels of whole tiles that hold n."""
    return -(-n // LANES) * LANES


def pack_sixes(codes: npt.NDArray[np.generic]) -> Bytes:
    """6-bit codes, four groups in three bytes.  # [tiles, G, 32] u8 → [tiles, G / 4, 3, 32] u8."""
    fours = codes.astype(np.uint8).reshape(len(codes), -1, 4, LANES)
    shifts = np.array([0, 2, 4], np.uint8).reshape(1, 1, 3, 1)
    return fours[:, :, :3] | (((fours[:, :, 3:] >> shifts) & np.uint8(3)) << np.uint8(6))


def unpack_sixes(stored: Bytes) -> Bytes:
    """The reverse.  # [tiles, G / 4, 3, 32] u8 → [tiles, G, 32] u8."""
    shifts = np.array([0, 2, 4], np.uint8).reshape(1, 1, 3, 1)
    fourth = np.bitwise_or.reduce((stored >> 6) << shifts, axis=2, keepdims=True)
    return np.concatenate([stored & 63, fourth], axis=2).reshape(len(stored), -1, LANES)


def pad(rows: npt.NDArray[_Item]) -> npt.NDArray[_Item]:
    """Rows with zero rows after them up to whole tiles."""
    return np.concatenate([rows, np.zeros((padded(len(rows)) - len(rows), rows.shape[1]), rows.dtype)])


def tile(rows: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """[N, G] → [tiles, G, 32]."""
    return pad(rows).reshape(-1, LANES, rows.shape[1]).transpose(0, 2, 1)


def untile(stored: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """[tiles, G, 32] → [padded N, G] f32."""
    return stored.transpose(0, 2, 1).reshape(-1, stored.shape[1]).astype(np.float32)
