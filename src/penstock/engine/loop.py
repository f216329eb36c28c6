"""The step loop: drain the inbox, plan, submit, emit the step before while the forward runs, finish, commit.

Knows nothing about threads that drive it, HTTP, tensors or wall time. Invariant: every request that passed the door
gets exactly one end: the finish of each of its samples, or one error.

Only token-id stops are decided in the commit. Stop strings are found while the next forward runs and reach the
scheduler as an input of the step after; a token that was computed meanwhile is dropped and not counted.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from penstock.core import (
    Backend,
    Clock,
    Conflict,
    DeadlineExceeded,
    Draining,
    EngineConfig,
    EngineUnavailable,
    Event,
    Outcome,
    Overloaded,
    PenstockError,
    Request,
    ServerError,
    Snapshot,
    StepPlan,
    TextDecoder,
    Ticket,
    check_sampling,
)
from penstock.core.limits import DRAWN_SEEDS
from penstock.engine.counts import Counts, measure, row_error
from penstock.engine.inbox import Arrive, Cancel, Command, End, Inbox
from penstock.engine.live import Live
from penstock.engine.step_log import StepLogWriter
from penstock.engine.stream import EventStream, Waiter, wake
from penstock.sched import Scheduler, decision_hash

logger = logging.getLogger("penstock.engine")
new_tuple = tuple.__new__


class Engine:
    """The synchronous core: whoever holds it calls `step`; `submit`, `cancel` and `drain` may come from any thread.

    Args:
        config: resolved choices.
        scheduler: decides; used by `step` only, but for its checks on plain data.
        backend: computes; its pages are allocated already.
        text: makes stream decoders.
        entropy: draws the seed of a request that has none; injected so that a run can be repeated.

    Attributes:
        inbox: what other threads asked; a replay pushes recorded commands here.
        decisions: chain hash of every plan so far; stays empty unless `hash_decisions` or a step log is on.
    """

    def __init__(
        self,
        config: EngineConfig,
        scheduler: Scheduler,
        backend: Backend,
        text: TextDecoder,
        entropy: Callable[[], int] = lambda: secrets.randbelow(DRAWN_SEEDS),
    ) -> None:
        self._config = config
        self._scheduler = scheduler
        self._backend = backend
        self._text = text
        self._entropy = entropy
        self._door = threading.Lock()
        self._refusal: Callable[[], PenstockError] | None = None
        self.inbox = Inbox()
        self._live: dict[str, Live] = {}
        self._late: list[Command] = []
        self._inflight: deque[tuple[StepPlan, Ticket]] = deque()
        self._ready: list[tuple[tuple[Outcome, ...], float]] = []
        self._waiters: list[Waiter] = []
        self.decisions = b""
        self.hash_decisions = config.step_log is not None
        self._log = StepLogWriter(config.step_log, config, backend.kv_groups) if config.step_log else None
        self._counts = Counts()
        self._was_idle = True
        self._given_up = False
        self._snapshot = measure(self._counts, scheduler, 0.0, draining=False)

    # The door: any thread.

    def submit(self, request: Request, now: float) -> EventStream:
        """Queues the request and returns its stream; the request's seed is resolved in `stream.request`.

        Raises:
            InvalidRequest: it can never be served as it is.
            QueueFull: too many wait already.
            Conflict: a live request has the same id.
            DeadlineExceeded: its deadline has passed.
            Draining, EngineUnavailable: nothing is taken any more.
        """
        if self._refusal is not None:
            raise self._refusal()
        check_sampling(request.sampling, self._config.vocab_size)
        self._scheduler.admissible(request)
        if request.deadline_s is not None and request.deadline_s <= now:
            raise DeadlineExceeded(
                f"the deadline passed {now - request.deadline_s:.3f} s before the request was queued.",
                hint="give it more time.",
            )
        if request.sampling.seed is None:
            request = replace(request, sampling=replace(request.sampling, seed=self._entropy()))
        pages = self._scheduler.prompt_pages(request)
        stream = EventStream(request)
        live = Live(stream, self._text)
        with self._door:
            if self._refusal is not None:
                raise self._refusal()
            self._reserve(request)
            self._live[request.id] = live
            self.inbox.push(Arrive(request, stream, pages))
        return stream

    def _reserve(self, request: Request) -> None:
        """Passes if the queue, what is still in the inbox included, has room for the request."""
        if request.id in self._live:
            raise Conflict(f"a request with id {request.id!r} is running.", param="id", hint="choose another id.")
        self._scheduler.check_room(request, self.inbox.num_requests, self.inbox.num_tokens)

    def cancel(self, request_id: str) -> None:
        """Ends a request at the next step; its stream ends with it. Unknown ids are ignored."""
        if request_id in self._live:
            self.inbox.push(Cancel(request_id))

    def drain(self) -> None:
        """Takes nothing new from now on; what was taken goes on."""
        with self._door:
            if self._refusal is None:
                self._refusal = _draining

    @property
    def snapshot(self) -> Snapshot:
        """The state as of the last step, with what is still in the inbox counted as waiting; never waits."""
        snapshot, queued = self._snapshot, self.inbox.num_requests
        return replace(snapshot, num_waiting=snapshot.num_waiting + queued) if queued else snapshot

    @property
    def idle(self) -> bool:
        """Whether no request is between the door and its end."""
        return not self._live

    # The loop: one thread.

    def step(self, clock: Clock) -> bool:
        """One turn of the loop; whether there was anything to do.

        A backend that raises, or a bug in the control plane, ends every request with an error and the engine with it;
        whatever one request alone did wrong ends that request.
        """
        if self._counts.dead:
            return False
        now = clock.now()
        try:
            inputs = self._drain_inbox(now)
            plan = self._scheduler.plan(now)
            if plan is None:
                self._ready.append((self._scheduler.expire(now), now))
            self._launch(now, inputs, plan)
            self._log_preemptions()
            emitted = self._emit(now)
            committed = self._settle(clock, plan is None)
        except Exception as error:
            self._counts.dead = True
            if not self._given_up:
                logger.critical("the engine stopped on an internal error", exc_info=error)
                self.fail(_unavailable, now)
            return False
        return bool(inputs) or plan is not None or emitted or committed

    def _drain_inbox(self, now: float) -> list[Command]:
        inputs = self._late
        self._late = []
        inputs.extend(self.inbox.take())
        if self._was_idle:
            self._counts.last_progress_s = now
        for command in inputs:
            if type(command) is Arrive:
                self._arrive(command, now)
            elif type(command) is Cancel:
                self._ready.append((self._scheduler.cancel(command.request_id), now))
            else:
                assert type(command) is End
                self._scheduler.finish(command.request_id, command.sample, command.reason)
        return inputs

    def _arrive(self, command: Arrive, now: float) -> None:
        """Hands a request to the scheduler; what it refuses gets the refusal as its end."""
        request, stream = command.request, command.stream
        live = self._live.get(request.id)
        if live is None or live.stream is not stream:
            live = self._live[request.id] = Live(stream, self._text)
        try:
            self._scheduler.add(request, now, command.pages)
        except PenstockError as error:
            self._end(live, error, now)
        finally:
            self.inbox.admitted(command)

    def _launch(self, now: float, inputs: list[Command], plan: StepPlan | None) -> None:
        """Starts the plan's forward and records the decision."""
        if plan is not None:
            self._inflight.append((plan, self._backend.submit(plan)))
            if self.hash_decisions:
                self.decisions = decision_hash(self.decisions, plan)
        if self._log is not None:
            self._log.write(now, inputs, None if plan is None else plan.step, self.decisions)

    def _emit(self, now: float) -> bool:
        """Gives out what the step before brought, with one wake-up a loop; whether there was anything.

        The snapshot is published first, so that a reader who sees an end sees it counted too.
        """
        ready, self._ready = self._ready, []
        for outcomes, when in ready:
            self._deliver_all(outcomes, when, now)
        self._publish(now)
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            wake(waiters)
        return any(outcomes for outcomes, _ in ready)

    def _log_preemptions(self) -> None:
        for request_id, sample, times, cost_tokens in self._scheduler.take_preemptions():
            logger.info(
                "request %s sample %d preempted for the %d. time; %d tokens to compute again",
                request_id,
                sample,
                times,
                cost_tokens,
            )

    def _deliver_all(self, outcomes: tuple[Outcome, ...], when: float, now: float) -> None:
        """Gives every outcome to its stream; by the short way where a token is nothing but a token."""
        find = self._live.get
        for outcome in outcomes:
            sequence, tokens = outcome[0], outcome[1]  # to unpack a named tuple takes twice as long
            live = find(sequence.request.id)
            if live is None:
                continue
            sample = live.samples[sequence.sample]
            if sample.plain is None or outcome[4] is not None or not tokens:
                self._deliver(live, outcome, when, now)
                continue
            try:
                text = sample.plain(tokens)
            except Exception:
                self._garbled(live, now)
                continue
            count = len(tokens)
            sample.num_tokens += count
            self._counts.output_tokens += count
            stream = live.stream
            waiter = stream.put(new_tuple(Event, (sample.sample, tokens, text, outcome[2], None, None, None)), now)
            if waiter is not None:
                self._waiters.append(waiter)  # a closing thread may swap the list: never bound once
            elif stream.behind:
                self._check_reader(live, now)

    def _garbled(self, live: Live, now: float) -> None:
        logger.exception("text of request %s failed", live.stream.request.id)
        self._end(live, ServerError("the output could not be turned into text."), now)

    def _deliver(self, live: Live, outcome: Outcome, when: float, now: float) -> None:
        if outcome.error is not None:
            self._end(live, row_error(outcome.error), now)
            return
        sample = live.samples[outcome.sequence.sample]
        if sample.finished:
            return
        try:
            event = sample.push(outcome, when)
        except Exception:
            self._garbled(live, now)
            return
        if event is None:
            return
        self._counts.output_tokens += len(event.tokens)
        waiter = live.stream.put(event, now)
        if event.finish is not None:
            self._finished(live, outcome, event)
        if waiter is not None:
            self._waiters.append(waiter)
        elif live.stream.behind:
            self._check_reader(live, now)

    def _check_reader(self, live: Live, now: float) -> None:
        """Ends a request whose reader leaves too much unread, or leaves it for too long."""
        slow = live.stream.overdue(now)
        if slow is not None:
            logger.warning("request %s ended: its reader is too slow", live.stream.request.id)
            self._end(live, Overloaded(slow, code="slow_reader", hint="read the stream as it comes."), now)

    def _finished(self, live: Live, outcome: Outcome, event: Event) -> None:
        """Books the end of one sample; the scheduler hears of it where it does not know yet."""
        request = live.stream.request
        if outcome.finish is None:
            assert event.finish is not None
            self._late.append(End(request.id, event.sample, event.finish.reason))
        live.remaining -= 1
        if live.remaining == 0 and self._live.get(request.id) is live:
            del self._live[request.id]
            self._counts.ended(request, event)

    def _end(self, live: Live, error: PenstockError, now: float) -> None:
        """Ends a whole request with an error; its other samples are cancelled at the next step."""
        request = live.stream.request
        if self._live.pop(request.id, None) is None:
            return
        event = Event(0, (), "", error=error)
        self._counts.ended(request, event)
        self._late.append(Cancel(request.id))
        waiter = live.stream.put(event, now)
        if waiter is not None:
            self._waiters.append(waiter)

    def _settle(self, clock: Clock, only_wait: bool) -> bool:
        """Finishes and commits the oldest step where the depth is reached or there is nothing to plan."""
        if not self._inflight or (len(self._inflight) < self._config.depth and not only_wait):
            return False
        plan, ticket = self._inflight.popleft()
        self._flush_log()
        result = self._backend.finish(ticket, None)
        now = clock.now()
        self._ready.append((self._scheduler.commit(plan, result, now), now))
        self._counts.steps += 1
        self._counts.last_progress_s = now
        if self._log is not None:
            self._log.commit(now, result)
        return True

    def _flush_log(self) -> None:
        """Writes the turns before this one; a log that cannot be written ends, the engine goes on."""
        if self._log is None:
            return
        try:
            self._log.flush()
        except OSError as error:
            logger.error("the step log ended: %s", error.strerror)
            self._log = None

    def _publish(self, now: float) -> None:
        self._snapshot = measure(self._counts, self._scheduler, now, draining=self._refusal is not None)
        self._was_idle = self._snapshot.num_running == 0 == self._snapshot.num_waiting

    def fail(self, make_error: Callable[[], PenstockError], now: float) -> None:
        """Ends every request with an error of its own and takes nothing new; safe from any thread."""
        with self._door:
            self._refusal = make_error
            live = list(self._live.values())
        for one in live:
            self._end(one, make_error(), now)
        waiters, self._waiters = self._waiters, []
        wake(waiters)
        self._publish(now)

    def give_up(self, make_error: Callable[[], PenstockError], now: float) -> None:
        """Ends every request like `fail` and lets the backend drop the step under way; safe from any thread."""
        self.fail(make_error, now)
        self._given_up = True
        self._backend.close()

    def close(self) -> None:
        """Ends the step log and frees the backend; `step` is not called again.

        Steps under way are waited for first, so that nothing is computed on freed memory.
        """
        try:
            while self._inflight and not self._counts.dead:
                self._backend.finish(self._inflight.popleft()[1], None)
            if self._log is not None:
                self._log.close()
        except Exception as error:
            logger.error("closing: %s", type(error).__name__, exc_info=error)
        finally:
            self._log = None
            self._backend.close()
            del self._backend  # weights and KV go with the last reference, whoever still holds the engine


def _draining() -> PenstockError:
    return Draining("the server is shutting down and takes nothing new.", hint="try another replica.")


def _unavailable() -> PenstockError:
    return EngineUnavailable("the engine stopped on an internal error.", hint="its log says why.", retry_after_s=5.0)
