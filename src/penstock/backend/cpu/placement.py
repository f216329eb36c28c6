"""Which compute threads run on which node of the machine: nodes are processors that share a memory controller.

Knows nothing about models or memory. Invariant: only processors that this process may use are named, every thread has a
node, and one node is no layout at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MAX_NODES = 1024
MAX_CPUS = 4096
_NODES = "sys/devices/system/node"
_CPUS = "sys/devices/system/cpu"
_MAX_LIST_CHARS = 65536


@dataclass(frozen=True, slots=True)
class Node:
    """Processors that share a memory controller.

    Attributes:
        id: the system's number.
        cpus: those that this process may use, ascending.
        num_cores: physical cores among them.
    """

    id: int
    cpus: tuple[int, ...]
    num_cores: int


@dataclass(frozen=True, slots=True)
class NodeThreads:
    """A node and how many compute threads run there; threads are numbered node by node."""

    id: int
    threads: int
    cpus: tuple[int, ...]


def read_nodes(root: Path = Path("/"), allowed: Iterable[int] | None = None) -> tuple[Node, ...]:
    """The nodes that have memory and processors for this process, by number; () where the system doesn't say.

    Processors of a node without memory of its own count to the nearest that has some.

    Args:
        root: replaced in tests by a folder with the same files.
        allowed: processors of this process; None asks the system.
    """
    usable = set(_affinity() if allowed is None else allowed)
    online = _list(root / _CPUS / "online")
    usable = usable & set(online) if online else usable
    cpus = {node: usable & set(_list(root / _NODES / f"node{node}" / "cpulist")) for node in _online(root)}
    with_memory = _with_memory(root, tuple(cpus))
    homes: dict[int, set[int]] = {node: set() for node in with_memory}
    for node, own in cpus.items():
        if own and homes:
            homes[node if node in homes else _nearest(root, node, with_memory)] |= own
    return tuple(Node(node, tuple(sorted(own)), _cores(root, own)) for node, own in homes.items() if own)


def deal_threads(nodes: tuple[Node, ...], threads: int) -> tuple[NodeThreads, ...]:
    """Threads by node, in proportion to its cores; () where all would run on one node, so that nothing is bound.

    What can't be divided goes to the largest remainders, ties to the lower number. Nodes without a thread are left out.
    """
    cores = sum(node.num_cores for node in nodes)
    if not cores:
        return ()
    whole = [threads * node.num_cores // cores for node in nodes]
    by_remainder = sorted(range(len(nodes)), key=lambda i: (-(threads * nodes[i].num_cores % cores), i))
    for index in by_remainder[: threads - sum(whole)]:
        whole[index] += 1
    dealt = [NodeThreads(node.id, count, node.cpus) for node, count in zip(nodes, whole, strict=True) if count]
    return tuple(dealt) if len(dealt) > 1 else ()


def shown_layout(layout: tuple[NodeThreads, ...]) -> str:
    """The layout in words, e.g. "node 0: 8 on processors 0-7; node 1: 8 on processors 8-15"."""
    if not layout:
        return "one node, nothing bound"
    return "; ".join(f"node {node.id}: {node.threads} on processors {_ranges(node.cpus)}" for node in layout)


def parse_list(text: str) -> tuple[int, ...]:
    """Numbers of a list such as "0-3,8" as the system writes them; () where it is none or names numbers ≥ MAX_CPUS."""
    found: set[int] = set()
    for part in text.strip().split(",") if len(text) <= _MAX_LIST_CHARS else ():
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
            return ()
        begin, end = int(first[:6]), int((last if dash else first)[:6])
        if not begin <= end < MAX_CPUS:
            return ()
        found.update(range(begin, end + 1))
    return tuple(sorted(found))


def _affinity() -> Iterable[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()


def _online(root: Path) -> tuple[int, ...]:
    return tuple(node for node in _list(root / _NODES / "online") if node < MAX_NODES)


def _with_memory(root: Path, nodes: tuple[int, ...]) -> tuple[int, ...]:
    """Those that have memory which this process may take; all where the system doesn't say."""
    have = set(_list(root / _NODES / "has_memory")) or set(nodes)
    status = _text(root / "proc/self/status").splitlines()
    line = next((line for line in status if line.startswith("Mems_allowed_list:")), "")
    allowed = set(parse_list(line.partition(":")[2])) or have
    return tuple(node for node in nodes if node in have & allowed)


def _nearest(root: Path, node: int, candidates: tuple[int, ...]) -> int:
    """The candidate at the least distance, ties and unknown distances to the lower number."""
    numbers = _text(root / _NODES / f"node{node}" / "distance").split()
    order = _online(root)
    far = dict(zip(order, (int(n[:6]) for n in numbers if n.isascii() and n.isdigit()), strict=False))
    return min(candidates, key=lambda other: (far.get(other, 10**6), other))


def _cores(root: Path, cpus: Iterable[int]) -> int:
    """Physical cores: processors whose lists of siblings begin alike are one."""
    leaders = set()
    for cpu in cpus:
        siblings = _list(root / _CPUS / f"cpu{cpu}" / "topology/thread_siblings_list")
        leaders.add(siblings[0] if siblings else cpu)
    return len(leaders)


def _ranges(numbers: tuple[int, ...]) -> str:
    """Ascending numbers as the system writes them: "0-3,8"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def _list(path: Path) -> tuple[int, ...]:
    return parse_list(_text(path))


def _text(path: Path) -> str:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return file.read(_MAX_LIST_CHARS + 1)
    except OSError:
        return ""
