"""The CPU backend's door: the native core behind `core.ports.Backend`, and what the machine offers."""

from penstock.backend.cpu.backend import CpuBackend, CpuOptions, CpuTicket, compute_tiers, default_threads
from penstock.backend.cpu.machine import Machine, read_machine

__all__ = [
    "CpuBackend",
    "CpuOptions",
    "CpuTicket",
    "Machine",
    "compute_tiers",
    "default_threads",
    "read_machine",
]
