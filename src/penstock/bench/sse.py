"""Cuts a stream of server-sent events, as it arrives, into the data of its events.

Knows nothing about HTTP, JSON or time. Invariant: the events do not depend on where the stream was cut into reads.
Source: the event stream format of the HTML standard (section 9.2.6).
"""

from __future__ import annotations

from penstock.core.limits import MAX_EVENT_BYTES


class EventStream:
    """Feed it bytes, it returns the data of every event that they complete."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event that ended within these bytes; comments and events without data give nothing.

        Raises:
            ValueError: an event is longer than the limit.
        """
        if self._rest:
            data = self._rest + data
        held = b""
        if b"\r" in data:
            if data.endswith(b"\r"):  # its line feed may be in the next read
                data, held = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *events, rest = data.split(b"\n\n")
        self._rest = rest + held
        if len(self._rest) > MAX_EVENT_BYTES:
            raise ValueError(f"an event is longer than {MAX_EVENT_BYTES} bytes")
        return [found for event in events if (found := data_of(event)) is not None]

    def flush(self) -> list[bytes]:
        """The data of an event that the stream's end left without its empty line."""
        rest, self._rest = self._rest, b""
        found = data_of(rest.rstrip(b"\r"))
        return [] if found is None else [found]


def data_of(event: bytes) -> bytes | None:
    """The data lines of one event, joined by line feeds; None where it has none."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[6:] if event.startswith(b"data: ") else event[5:]
    lines = []
    for line in event.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
