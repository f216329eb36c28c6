"""The step loop, its thread, streams, the step log: a request goes in, events come out."""

from penstock.engine.garbage import (
    Garbage,
)
from penstock.engine.inbox import (
    Arrive,
    Cancel,
    Command,
    End,
)
from penstock.engine.loop import (
    Engine,
)
from penstock.engine.step_log import (
    Commit,
    Turn,
    read_step_log,
)
from penstock.engine.stream import (
    EventStream,
)
from penstock.engine.thread import (
    EngineThread,
)
from penstock.engine.wall_clock import (
    WallClock,
)

__all__ = [
    "Arrive",
    "Cancel",
    "Command",
    "Commit",
    "End",
    "Engine",
    "EngineThread",
    "EventStream",
    "Garbage",
    "Turn",
    "WallClock",
    "read_step_log",
]
