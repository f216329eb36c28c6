"""When the interpreter looks for garbage: full collections wait until the engine has nothing to do.

Knows nothing about steps or requests. Invariant: no full collection starts by itself while an engine's thread runs, and
none is put off for longer than LONGEST_S while it steps.

A full collection visits every token of every sequence: 67 ms at 1,024 sequences of 2,048 tokens, in the middle of a
step. What a request leaves behind is freed by its reference counts; only what is in cycles (an exception with its
frames, an event loop's task) waits for the collector. The young generations are larger than by default, so that
the tuples of one step do not start a collection.
"""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 20_000
YOUNG_ROUNDS = 20
NEVER = 1_000_000_000
LONGEST_S = 60.0


class Garbage:
    """The collector of this process, for an engine thread.

    What is loaded so far (the model, the modules) is moved out of its sight until `release`.

    Args:
        now: the injected clock.

    Attributes:
        due: whether steps were made since the last full collection.
    """

    def __init__(self, now: float) -> None:
        self.due = False
        self._collected_s = now
        self._found = gc.get_threshold()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS, YOUNG_ROUNDS, NEVER)

    def busy(self, now: float) -> None:
        """Notes a step; collects if the last time is too long ago."""
        self.due = True
        if now - self._collected_s > LONGEST_S:
            self.collect(now)

    def collect(self, now: float) -> None:
        """Collects all generations."""
        self.due = False
        self._collected_s = now
        if gc.isenabled():  # who switched it off measures something
            gc.collect()

    def release(self) -> None:
        """Gives the collector back as it was found: what was hidden is seen again, a closed model in a cycle too.

        Another engine of this process goes on with the interpreter's own collections then: slower, not wrong. Who found
        another's thresholds leaves those alone, in whichever order they are closed.
        """
        gc.unfreeze()
        if self._found[2] != NEVER:
            gc.set_threshold(*self._found)
