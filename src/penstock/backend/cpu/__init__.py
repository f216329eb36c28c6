"""The CPU backend's door: the native core behind `core.ports.Backend`, and what the machine offers."""

from penstock.backend.cpu.backend import CpuBackend, CpuOptions, CpuTicket, compute_tiers
from penstock.backend.cpu.machine import Machine, read_machine
from penstock.backend.cpu.pool import Pool, default_threads, make_pool

__all__ = [
    "CpuBackend",
    "CpuOptions",
    "CpuTicket",
    "Machine",
    "Pool",
    "compute_tiers",
    "default_threads",
    "make_pool",
    "read_machine",
]
