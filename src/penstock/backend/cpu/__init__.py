"""The CPU backend's door: the native core behind `core.ports.Backend`, and what the machine offers."""

from penstock.backend.cpu.backend import CpuBackend, CpuOptions, CpuTicket, compute_tiers
from penstock.backend.cpu.machine import Machine, has_gpu, read_machine
from penstock.backend.cpu.memory import huge_pages
from penstock.backend.cpu.placement import NodeThreads, shown_layout
from penstock.backend.cpu.pool import Pool, default_threads, make_pool, numa_layout

__all__ = [
    "CpuBackend",
    "CpuOptions",
    "CpuTicket",
    "Machine",
    "NodeThreads",
    "Pool",
    "compute_tiers",
    "default_threads",
    "has_gpu",
    "huge_pages",
    "make_pool",
    "numa_layout",
    "read_machine",
    "shown_layout",
]
