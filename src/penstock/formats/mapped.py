"""Memory of mapped files that is no longer needed, given back.

Knows nothing about formats or models. Invariant: only whole pages of a read-only file map are let go, so that a later
read brings back the same bytes from the file.
"""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt


def drop_pages(data: npt.NDArray[np.uint8]) -> int:
    """Lets go of what `data` keeps resident of the file that it maps; returns the bytes let go.

    Does nothing, and returns 0, where `data` is not a view of a read-only map or the system has no such call.
    """
    mapped = _map_under(data)
    if mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
        return 0
    whole = np.frombuffer(mapped, dtype=np.uint8)
    first = data.ctypes.data - whole.ctypes.data
    start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (first + data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end <= start:
        return 0
    mapped.madvise(mmap.MADV_DONTNEED, start, end - start)
    return end - start


def _map_under(data: npt.NDArray[np.uint8]) -> mmap.mmap | None:
    """The read-only map that a contiguous view lies in, or None."""
    if not data.flags.c_contiguous or data.flags.writeable:
        return None
    base: object = data
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) and memoryview(base).readonly else None
