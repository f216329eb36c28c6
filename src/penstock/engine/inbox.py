"""What other threads ask of the engine, in the order in which they asked.

Knows nothing about steps or streams' contents. Invariant: commands leave in the order they came; the counts of
sequences and prompt tokens cover every arrival until its receiver counts it itself, so that no place is given twice.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from penstock.core import FinishReason, Request
from penstock.engine.stream import EventStream
from penstock.kv import PromptPages


class Arrive(NamedTuple):
    """A request that passed the door, with its pages hashed there."""

    request: Request
    stream: EventStream
    pages: PromptPages | None


class Cancel(NamedTuple):
    """End every sample of a request; unknown ids are ignored."""

    request_id: str


class End(NamedTuple):
    """End one sample: its stop string was found after its last token had been committed."""

    request_id: str
    sample: int
    reason: FinishReason


Command = Arrive | Cancel | End


class Inbox:
    """A thread-safe queue of commands with the weight of what waits in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._commands: deque[Command] = deque()
        self._notify: Callable[[], None] = lambda: None
        self.num_requests = 0
        self.num_tokens = 0

    def on_push(self, notify: Callable[[], None]) -> None:
        """Sets what is called, on the pushing thread, after every push."""
        self._notify = notify

    def push(self, command: Command) -> None:
        """Appends a command."""
        with self._lock:
            self._commands.append(command)
            if type(command) is Arrive:
                self.num_requests += command.request.sampling.n
                self.num_tokens += command.request.sampling.n * len(command.request.prompt_tokens)
        self._notify()

    def take(self) -> list[Command]:
        """All commands, oldest first; the inbox is empty afterwards."""
        if not self._commands:
            return []
        with self._lock:
            taken = list(self._commands)
            self._commands.clear()
        return taken

    def admitted(self, command: Arrive) -> None:
        """Takes an arrival off the counts: from here on its receiver counts it, or it has been refused."""
        with self._lock:
            self.num_requests -= command.request.sampling.n
            self.num_tokens -= command.request.sampling.n * len(command.request.prompt_tokens)

    def __len__(self) -> int:
        return len(self._commands)
