"""Memory for weights: taken at once, in huge pages where the system grants them, on the node that reads it.

Knows nothing about layouts' bytes. Invariant: what is given out is zeroed, disjoint, aligned to 64 bytes, and freed
with the last array that lies in it.
"""

from __future__ import annotations

import contextlib
import mmap
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock import _native
from penstock.core import ConfigError
from penstock.formats import Layout, PackedMatrix, drop_pages

Bytes = npt.NDArray[np.uint8]

HUGE_BYTES = 2 * 1024 * 1024
# With several nodes a huge page is all on one: only arrays of which each node has this much are worth them.
_HUGE_SHARE_BYTES = 8 * HUGE_BYTES
_ALIGN = 64
_LANES = 32
_FLOAT_BYTES = {Layout.F32: 4, Layout.BF16: 2, Layout.F16: 2}


class Arena:
    """Private memory that arrays are cut from, one after the other.

    Attributes:
        num_bytes: what can be cut; each array takes up to 63 bytes more than its own, or, with several nodes and large,
            two huge pages more.
    """

    def __init__(self, num_bytes: int, nodes: int = 1) -> None:
        """Memory for arrays of `num_bytes` together that threads of `nodes` nodes will touch first.

        Raises:
            ConfigError: the machine does not have it.
        """
        self.num_bytes = num_bytes
        self._least = 0 if nodes == 1 else nodes * _HUGE_SHARE_BYTES
        self._end = 0
        try:
            self._map = _anonymous(num_bytes)
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"no memory for {num_bytes:,} bytes of weights.", hint="run a smaller model or quantization."
            ) from error
        self._bytes: Bytes = np.frombuffer(self._map, np.uint8)
        if nodes == 1:
            ask_huge(self._map)

    @staticmethod
    def room(sizes: list[int], nodes: int = 1) -> int:
        """Bytes of an arena that arrays of these sizes fit into."""
        large = nodes * _HUGE_SHARE_BYTES
        return sum(size + (2 * HUGE_BYTES if nodes > 1 and size >= large else _ALIGN) for size in sizes) + HUGE_BYTES

    def take(self, size: int) -> Bytes:
        """The next `size` bytes, zeros."""
        huge = 0 < self._least <= size
        align = HUGE_BYTES if huge else _ALIGN
        start = -(-(self._address + self._end) // align) * align - self._address
        assert start + size <= self.num_bytes, "an arena is made for all that is cut from it"
        if huge:
            ask_huge(self._map, start, size)
        self._end = start + size
        return self._bytes[start : start + size]

    @property
    def _address(self) -> int:
        return int(self._bytes.ctypes.data)


def _anonymous(num_bytes: int) -> mmap.mmap:
    if hasattr(mmap, "MAP_PRIVATE") and hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, max(1, num_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, max(1, num_bytes))


def ask_huge(memory: mmap.mmap, start: int = 0, size: int = 0) -> None:
    """Asks for huge pages from `start`, on a page, to the end where `size` is 0; refusal changes nothing."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError, ValueError):
            memory.madvise(mmap.MADV_HUGEPAGE, start, size or len(memory) - start)


def place(matrices: dict[str, PackedMatrix], pool: _native.Pool) -> dict[str, PackedMatrix]:
    """Copies of the matrices, every tile on the node of the threads that compute it first; sources are let go of."""
    arena = Arena(Arena.room([array.size for m in matrices.values() for array in _arrays(m)], pool.nodes), pool.nodes)
    return {name: _placed(matrix, pool, arena) for name, matrix in matrices.items()}


def _placed(matrix: PackedMatrix, pool: _native.Pool, arena: Arena) -> PackedMatrix:
    tiles = -(-matrix.n // _LANES)
    width = _FLOAT_BYTES.get(matrix.layout)

    def copy(array: Bytes | None) -> Bytes | None:
        if array is None:
            return None
        target = arena.take(array.size)
        _native.place(pool, array, target, array.size // tiles if width is None else _LANES * matrix.k * width)
        drop_pages(array)
        return target

    codes = copy(matrix.codes)
    assert codes is not None
    scales, subscales, mins = (copy(array) for array in (matrix.scales, matrix.subscales, matrix.mins))
    return replace(matrix, codes=codes, scales=scales, subscales=subscales, mins=mins)


def huge_pages(root: Path = Path("/")) -> str:
    """What the system grants of huge pages, in words."""
    try:
        text = (root / "sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "none (the system has no transparent huge pages)"
    chosen = text.partition("[")[2].partition("]")[0]
    if chosen in ("always", "madvise"):
        return f"asked for (the system's setting is {chosen})"
    return f"none (the system's setting is {chosen[:20] or 'unreadable'}; madvise grants what is asked for)"


def _arrays(matrix: PackedMatrix) -> list[Bytes]:
    return [a for a in (matrix.codes, matrix.scales, matrix.subscales, matrix.mins) if a is not None]
