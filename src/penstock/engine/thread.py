"""The thread that drives an engine by the wall clock.

Knows nothing about what a step does. Invariant: it parks on an event when there is nothing to do; it never spins.
"""

from __future__ import annotations

import logging
import sys
import threading

from penstock.core import Clock, Draining, PenstockError, Request, Snapshot
from penstock.engine.garbage import LONGEST_S, Garbage
from penstock.engine.loop import Engine
from penstock.engine.stream import EventStream

logger = logging.getLogger("penstock.engine")

# The event loop and the step loop share one interpreter: 5 ms (CPython's default) of waiting a switch would be felt in
# every token.
SWITCH_INTERVAL_S = 0.0005
# A request whose turn depends on time alone (a deadline, ageing) is looked at this often.
RECHECK_S = 0.02
# After this long without a request garbage is collected.
PAUSE_S = 1.0
# How much longer than the grace `close` waits for the step that runs at its end, before it gives that up ...
PATIENCE_S = 0.5
# ... and how long until it is given up.
LAST_STEP_S = 10.0


class EngineThread:
    """An engine in this process with a thread of its own (implements core.ports.EngineClient).

    The thread starts here. It sets the interpreter's switch interval to 0.5 ms at most and takes full collections of
    garbage into its own hands.

    Args:
        engine: driven by nobody else.
        clock: wall time.
    """

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.clock = clock
        self._engine = engine
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._closing = threading.Lock()
        self._closed = False
        engine.inbox.on_push(self._work.set)
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        self._garbage = Garbage(clock.now())
        self._thread = threading.Thread(target=self._run, name="penstock-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> EventStream:
        """Queues the request and returns its stream; its resolved seed is in `stream.request`.

        Raises:
            InvalidRequest: it can never be served as it is.
            QueueFull: too many wait already.
            Conflict: a live request has the same id.
            DeadlineExceeded: its deadline has passed.
            Draining, EngineUnavailable: nothing is taken any more.
        """
        return self._engine.submit(request, self.clock.now())

    def cancel(self, request_id: str) -> None:
        """Ends the request at the next step; unknown ids are ignored."""
        self._engine.cancel(request_id)

    def snapshot(self) -> Snapshot:
        """The state as of the last step; never blocks on the engine."""
        return self._engine.snapshot

    def drain(self) -> None:
        """Takes nothing new from now on; what runs goes on."""
        self._engine.drain()

    def close(self, grace_s: float = 0.0) -> None:
        """Waits up to grace_s for what runs, ends the rest with an error event, stops the thread, frees the backend.

        A step that runs PATIENCE_S longer is given up, which a backend does between two layers. One that still runs
        LAST_STEP_S after that is left to itself: its thread dies with the process.
        """
        self._engine.drain()
        with self._closing:
            if self._closed:
                return
            self._closed = True
            deadline = self.clock.now() + grace_s
            while grace_s > 0.0 and not self._engine.idle and (left := deadline - self.clock.now()) > 0.0:
                self._stopping.wait(min(left, RECHECK_S))
            self._stopping.set()
            self._work.set()
            self._thread.join(PATIENCE_S)
            if self._thread.is_alive():
                self._engine.give_up(_closed, self.clock.now())
                self._thread.join(LAST_STEP_S)
            self._engine.fail(_closed, self.clock.now())
            if self._thread.is_alive():
                logger.error("a step did not end within %.0f s of closing", LAST_STEP_S)
                return
            self._engine.close()
            self._garbage.release()

    def _run(self) -> None:
        while True:
            self._work.clear()
            if self._stopping.is_set():  # asked after the clearing: `close` tells both, in the other order
                return
            if self._engine.step(self.clock):
                self._garbage.busy(self.clock.now())
            elif not self._engine.idle:
                self._work.wait(RECHECK_S)
            elif not self._work.wait(PAUSE_S if self._garbage.due else LONGEST_S):
                self._garbage.collect(self.clock.now())


def _closed() -> PenstockError:
    return Draining("the server shut down before the request was finished.", hint="send it to another replica.")
