"""The same engine, scheduler and KV manager on a virtual clock and a cost model; replay of step logs; traces."""

from penstock.sim.backend import (
    CostBackend,
    Costs,
)
from penstock.sim.clock import (
    VirtualClock,
)
from penstock.sim.run import (
    ReplayResult,
    SilentText,
    SimulationResult,
    replay,
    simulate,
)
from penstock.sim.trace import (
    Arrival,
    read_azure_trace,
    trace_requests,
)

__all__ = [
    "Arrival",
    "CostBackend",
    "Costs",
    "ReplayResult",
    "SilentText",
    "SimulationResult",
    "VirtualClock",
    "read_azure_trace",
    "replay",
    "simulate",
    "trace_requests",
]
