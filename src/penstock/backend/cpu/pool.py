"""The process's compute threads: made once, shared by every engine, which take turns on them.

Knows nothing about models. Invariant: how many threads a pool has, and on which nodes of the machine they run, never
changes what is computed on it.
"""

from __future__ import annotations

from penstock import _native
from penstock.backend.cpu.placement import NodeThreads, deal_threads, read_nodes
from penstock.core import ConfigError

Pool = _native.Pool
MAX_THREADS = 1024
NUMA_CHOICES = ("auto", "off")


def make_pool(threads: int | None = None, numa: str = "auto") -> Pool:
    """A pool of that many compute threads, the caller's own included; None takes the cores that this process may use.

    Its threads end with the last reference. `numa` is "auto" (threads are bound to the machine's nodes where there are
    several) or "off".

    Raises:
        ConfigError: the number is out of range, or `numa` is neither.
    """
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise ConfigError(f"threads is {threads}; it must be 1 to {MAX_THREADS}.", param="threads")
    count = threads or default_threads()
    layout = numa_layout(count, numa)
    return Pool([(node.id, node.threads, list(node.cpus)) for node in layout]) if layout else Pool(count)


def numa_layout(threads: int, numa: str = "auto") -> tuple[NodeThreads, ...]:
    """Where that many threads run on this machine; () where nothing is bound.

    Raises:
        ConfigError: `numa` is neither "auto" nor "off".
    """
    if numa not in NUMA_CHOICES:
        raise ConfigError(f"numa is {numa!r}; {' and '.join(NUMA_CHOICES)} exist.", param="numa")
    return () if numa == "off" else deal_threads(read_nodes(), threads)


def default_threads() -> int:
    """Compute threads that this process may use: affinity and the container's CPU limit count."""
    return min(MAX_THREADS, _native.default_threads())
