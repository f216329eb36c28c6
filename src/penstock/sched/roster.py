"""The running jobs: their slots, their memory, and who gives way when it runs out.

Knows nothing about ranks, budgets or results. Invariant: a slot or page is given out again only after the commit of
the last step that names it.

**Why it cannot go round in circles.** A sequence is preempted at most `max_preemptions` times, so there are finitely
many preemptions, and between two of them somebody gets a row:

- A job that has been preempted that often is *protected*: it enters only when every page that it can ever need is
  spare, these pages are set aside, and nobody may take its memory. What is set aside is left out of what later jobs
  enter on, so while only protected jobs run, none of them is short.
- An ordinary job may have outgrown what was set aside for it and hold what a protected one was promised; then the
  protected one takes from any ordinary job, the newest first, and gets on.
- Without protected jobs, the oldest may take from every other one and gets on. With them, an ordinary job that finds
  nobody to take from sits out until a protected one ends, which it does because it is never held up for good.
- The first in line enters at the latest when nobody runs: what cannot fit alone was refused at the door.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from penstock.core import EngineConfig, Row, SequenceState
from penstock.kv import KvManager
from penstock.sched.job import Job
from penstock.sched.policy import choose_victim


class Preemption(NamedTuple):
    """One preemption, for the log.

    Attributes:
        request_id, sample: who lost its pages.
        num_preemptions: how often by now.
        cost_tokens: computed tokens that were lost; those still in the prefix cache come back for nothing.
    """

    request_id: str
    sample: int
    num_preemptions: int
    cost_tokens: int


class Roster:
    """Slots 0 … max_running - 1 and the jobs in them.

    Args:
        config: max_running, max_preemptions and page_tokens are read.
        kv: page tables.
        requeue: takes back a job that lost its pages.

    Attributes:
        jobs: by sequence id, those that may get rows, oldest admission first unless rotated.
        by_slot: jobs by slot, ended ones with steps under way included.
        num_preemptions: since the start.
        preemptions: not yet collected by `take_preemptions`.
    """

    def __init__(self, config: EngineConfig, kv: KvManager, requeue: Callable[[Job], None]) -> None:
        self._config = config
        self._kv = kv
        self._requeue = requeue
        self._free = list(range(config.max_running - 1, -1, -1))
        self._announce: list[int] = []
        self._admissions = 0
        self.jobs: dict[int, Job] = {}
        self.by_slot: list[Job | None] = [None] * config.max_running
        self.num_preemptions = 0
        self.preemptions: list[Preemption] = []
        self.num_short = 0
        self.num_doomed = 0

    @property
    def has_slot(self) -> bool:
        """Whether a job can enter."""
        return bool(self._free)

    def enter(self, job: Job, reserved: int) -> None:
        """Gives a job, whose tables are open, a slot, and sets memory for `reserved` tokens aside."""
        job.order = self._admissions
        self._admissions += 1
        sequence = job.sequence
        self._kv.reserve(sequence, reserved)
        sequence.slot = self._free.pop()
        sequence.state = SequenceState.RUNNING
        self.by_slot[sequence.slot] = job
        self.jobs[sequence.id] = job

    def take_released(self) -> tuple[int, ...]:
        """Slots that were let go since the plan before; the plan in hand names them."""
        released = tuple(self._announce)
        self._announce.clear()
        return released

    def take_preemptions(self) -> tuple[Preemption, ...]:
        """The preemptions since the last call."""
        taken = tuple(self.preemptions)
        self.preemptions.clear()
        return taken

    def end(self, job: Job, *, poisoned: bool = False) -> None:
        """Takes an ended job off; its slot and pages follow when no step names them any more."""
        del self.jobs[job.sequence.id]
        self._clear_marks(job)
        self._kv.abandon(job.sequence, poisoned=poisoned)
        if job.steps == 0:
            self.vacate(job)

    def vacate(self, job: Job) -> None:
        """Lets go of slot and pages."""
        sequence = job.sequence
        self._kv.release(sequence)
        self.by_slot[sequence.slot] = None
        self._announce.append(sequence.slot)
        self._free.append(sequence.slot)
        sequence.slot = -1

    def _clear_marks(self, job: Job) -> None:
        self.num_short -= job.short
        self.num_doomed -= job.doomed
        job.short = job.doomed = False

    def mark_short(self, job: Job) -> None:
        """Notes that the job sits out for want of a page."""
        self.num_short += not job.short
        job.short = True
        job.covered = 0

    def relieve(self) -> bool:
        """Gets pages for jobs that are short of one, by preemption if need be; whether anybody can get on now."""
        if not self.num_short:
            return False
        limit = self._config.max_preemptions
        short = [job for job in self.jobs.values() if job.short]
        short.sort(key=lambda job: (job.sequence.num_preemptions < limit, job.order))
        got_on = False
        for job in short:
            if job.short and job.sequence.id in self.jobs:
                got_on |= self._help(job)
        return got_on

    def _help(self, job: Job) -> bool:
        """Gets one job its next page; False while nobody can give way, or a victim's steps are under way."""
        sequence = job.sequence
        while self._kv.grow(sequence, sequence.num_scheduled + 1) is None:
            victim = None if self.num_doomed else choose_victim(self.jobs.values(), job, self._config.max_preemptions)
            if victim is None:
                return False
            if victim.steps:
                victim.doomed = True
                victim.covered = 0
                self.num_doomed += 1
                return False
            self.preempt(victim)
        self.num_short -= 1
        job.short = False
        return True

    def preempt(self, job: Job) -> None:
        """Takes the job's slot and pages and puts it back in line; no step may name it."""
        sequence = job.sequence
        self._clear_marks(job)
        del self.jobs[sequence.id]
        sequence.num_preemptions += 1
        sequence.state = SequenceState.WAITING
        sequence.drafts = ()
        self.num_preemptions += 1
        self.preemptions.append(
            Preemption(sequence.request.id, sequence.sample, sequence.num_preemptions, sequence.num_computed)
        )
        self.vacate(job)
        job.reset()
        self._requeue(job)

    def rotate(self, served: Iterable[Row]) -> None:
        """Moves those who got a row to the end, where a step could not hold everybody's."""
        for row in served:
            job = self.by_slot[row.slot]
            assert job is not None, "a row without a job"
            self.jobs[job.sequence.id] = self.jobs.pop(job.sequence.id)
