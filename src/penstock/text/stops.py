"""Stop strings: what may leave, what must wait, and where the text ends.

Knows nothing about tokens. Invariant: text handed out never contains a stop string (unless asked for), however the
pieces were cut, and nothing is held back that can't be the beginning of a stop.
"""

from __future__ import annotations


class StopMatcher:
    """Finds the stop string that is complete first in a text that arrives in pieces.

    Which stop wins depends on the text alone, never on its pieces: the one that ends first, and of those that end
    at the same character the longest.

    Args:
        stops: strings that end the text; empty ones are ignored.
        include_stop: whether the stop itself belongs to the text.
    """

    __slots__ = ("_held", "_hit", "_include", "_longest", "_stops")

    def __init__(self, stops: tuple[str, ...], include_stop: bool) -> None:
        self._stops = tuple(dict.fromkeys(stop for stop in stops if stop))
        self._include = include_stop
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self._hit: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """Text that may be shown after this piece, and the stop that ended it; after a hit always ("", that stop)."""
        if not self._stops:
            return text, None
        if self._hit is not None:
            return "", self._hit
        buffer = self._held + text
        found = self._first_whole(buffer)
        if found is not None:
            start, self._hit = found
            self._held = ""
            return buffer[: start + len(self._hit)] if self._include else buffer[:start], self._hit
        hold = self._first_partial(buffer)
        self._held = buffer[hold:]
        return buffer[:hold], None

    def flush(self) -> str:
        """What was held back, at the end of the text: the beginning of a stop that never came."""
        held, self._held = self._held, ""
        return held

    def _first_whole(self, buffer: str) -> tuple[int, str] | None:
        """Start and text of the stop that ends first."""
        ends = [(at + len(stop), at, stop) for stop in self._stops if (at := buffer.find(stop)) >= 0]
        if not ends:
            return None
        _, start, stop = min(ends)
        return start, stop

    def _first_partial(self, buffer: str) -> int:
        """Where the longest suffix that is a proper prefix of a stop begins; the buffer's length if there is none."""
        for start in range(max(0, len(buffer) - self._longest + 1), len(buffer)):
            tail = buffer[start:]
            if any(len(tail) < len(stop) and stop.startswith(tail) for stop in self._stops):
                return start
        return len(buffer)
