"""The protocols between rooms: who computes, who tells time, who decodes text, and what `api` holds.

Knows nothing about implementations. Invariant: only plain data crosses these lines.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.core.step import StepPlan, StepResult
from penstock.core.types import Event, Request, Snapshot


class Clock(Protocol):
    """Time, injected: wall in a server, virtual in the simulator."""

    def now(self) -> float:
        """Seconds on a monotonic scale."""
        ...


@dataclass(frozen=True, slots=True)
class KvGroup:
    """Layers that share one page table.

    Attributes:
        name: "full", "window", "latent", "draft", ….
        layers: layer indices.
        bytes_per_page: KV bytes of one page over all layers of the group.
        window: tokens that a layer looks back, or None for all.
    """

    name: str
    layers: tuple[int, ...]
    bytes_per_page: int
    window: int | None = None


class Ticket(Protocol):
    """A step under way."""

    @property
    def step(self) -> int:
        """The step's number."""
        ...


class Backend(Protocol):
    """What computes a step. `submit` returns at once; `finish` blocks with the GIL released.

    Steps finish in the order they were submitted. A row that fails carries its error in its `RowResult`; `finish`
    raises only when the whole backend is lost.
    """

    @property
    def kv_groups(self) -> tuple[KvGroup, ...]:
        """One or more groups; known before pages are allocated."""
        ...

    def allocate(self, pages: tuple[int, ...]) -> None:
        """Takes memory for that many pages a group; called once before the first step."""
        ...

    def submit(self, plan: StepPlan) -> Ticket:
        """Starts the step."""
        ...

    def finish(self, ticket: Ticket, masks: Mapping[int, bytes] | None) -> StepResult:
        """Waits for the step and samples. `masks`: slot → bits, 1 = allowed, ceil(V / 8) bytes, low bit first."""
        ...

    def close(self) -> None:
        """Frees threads and memory; the backend is not used again. Closing twice is closing once.

        May be called by another thread than the one that waits in `finish`: the step under way is given up as soon as
        that can be done, and `finish` raises EngineUnavailable, or ends as if nothing had happened.
        """
        ...


class StreamDecoder(Protocol):
    """Turns one sample's token ids into text, piece by piece; never emits half a code point."""

    def push(self, tokens: Sequence[int]) -> str:
        """Text that is certain after these tokens."""
        ...

    def flush(self) -> str:
        """What was held back, at the end of the sample (an incomplete code point becomes U+FFFD once)."""
        ...


class TextDecoder(Protocol):
    """Makes stream decoders for one tokenizer."""

    def stream(self, skip_special_tokens: bool, after: int | None = None) -> StreamDecoder:
        """A fresh decoder for one sample; `after` is the token before its first one."""
        ...


class Stream(Protocol):
    """One request's events, coalesced while nobody reads; iterated once, either way; ends with the last sample."""

    def __aiter__(self) -> AsyncIterator[tuple[Event, ...]]:
        """Batches of events, as soon as there are any."""
        ...

    def __iter__(self) -> Iterator[tuple[Event, ...]]:
        """The same for a thread that may block."""
        ...


class EngineClient(Protocol):
    """What `api` and the library hold: an engine in this process, a child process or a fleet replica."""

    def submit(self, request: Request) -> Stream:
        """Queues the request; InvalidRequest, QueueFull, Draining, EngineUnavailable on the caller's thread."""
        ...

    def cancel(self, request_id: str) -> None:
        """Ends the request at the next step; unknown ids are ignored."""
        ...

    def snapshot(self) -> Snapshot:
        """The state as of the last step; never blocks on the engine."""
        ...

    def drain(self) -> None:
        """Takes nothing new from now on; what runs goes on."""
        ...

    def close(self, grace_s: float = 0.0) -> None:
        """Waits up to grace_s for what runs, ends the rest with an error event, stops the thread."""
        ...
