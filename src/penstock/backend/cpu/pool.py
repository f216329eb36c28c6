"""The process's compute threads: made once, shared by every engine, which take turns on them.

Knows nothing about models. Invariant: how many threads a pool has never changes what is computed on it.
"""

from __future__ import annotations

from penstock import _native
from penstock.core import ConfigError

Pool = _native.Pool
MAX_THREADS = 1024


def make_pool(threads: int | None = None) -> Pool:
    """A pool of that many compute threads, the caller's own included; None takes the cores that this process may use.

    Its threads end with the last reference.

    Raises:
        ConfigError: the number is out of range.
    """
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise ConfigError(f"threads is {threads}; it must be 1 to {MAX_THREADS}.", param="threads")
    return Pool(threads or default_threads())


def default_threads() -> int:
    """Compute threads that this process may use: affinity and the container's CPU limit count."""
    return _native.default_threads()
