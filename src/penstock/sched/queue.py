"""Jobs in line for a slot, best rank first, and those that wait for a page which somebody computes.

Knows nothing about slots, pages or time. Invariant: `num_sequences` and `num_tokens` count exactly the jobs inside.
"""

from __future__ import annotations

import heapq

from penstock.sched.job import Job, Rank


class WaitingQueue:
    """A heap by rank; a removed job stays in it, marked, until it comes to the top."""

    def __init__(self) -> None:
        self._heap: list[tuple[Rank, Job]] = []
        self._parked: dict[object, dict[int, Job]] = {}  # by what they wait for, then by id
        self._blockers: dict[int, object] = {}  # of the parked ones, by id
        self._jobs: dict[int, Job] = {}  # by id, oldest first
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: Job) -> bool:
        return job.sequence.id in self._jobs

    @property
    def oldest_s(self) -> float | None:
        """When the job that joined first did; None if nobody waits. Preempted jobs rejoin at the end of this book."""
        return next(iter(self._jobs.values())).joined_s if self._jobs else None

    def push(self, job: Job) -> None:
        """Puts a job in line by its rank."""
        assert job.sequence.id not in self._jobs, "a job waits twice"
        self._jobs[job.sequence.id] = job
        self.num_tokens += job.sequence.num_prompt
        heapq.heappush(self._heap, (job.rank, job))

    def remove(self, job: Job) -> None:
        """Takes a job out, wherever it is."""
        del self._jobs[job.sequence.id]
        if job.sequence.id in self._blockers:
            self._release(job)
        self.num_tokens -= job.sequence.num_prompt

    def first(self) -> Job | None:
        """The best-ranked job that is not parked."""
        heap = self._heap
        while heap:
            job = heap[0][1]
            if self._jobs.get(job.sequence.id) is job and job.sequence.id not in self._blockers:
                return job
            heapq.heappop(heap)
        return None

    def park(self, job: Job) -> None:
        """Sets the first job aside, with those that have the same blocker; it keeps its rank."""
        assert self._heap[0][1] is job, "only the first can be parked"
        heapq.heappop(self._heap)
        blocker = job.blocker
        self._blockers[job.sequence.id] = blocker
        self._parked.setdefault(blocker, {})[job.sequence.id] = job

    def unpark(self, job: Job) -> None:
        """Puts a parked job back in line."""
        self._release(job)
        heapq.heappush(self._heap, (job.rank, job))

    def _release(self, job: Job) -> None:
        blocker = self._blockers.pop(job.sequence.id)
        group = self._parked[blocker]
        del group[job.sequence.id]
        if not group:
            del self._parked[blocker]

    def first_parked(self) -> list[Job]:
        """One of every group that waits for the same."""
        return [next(iter(group.values())) for group in self._parked.values()]

    def parked_with(self, job: Job) -> list[Job]:
        """The parked job and those that wait for the same."""
        return list(self._parked[self._blockers[job.sequence.id]].values())

    def parked(self) -> list[Job]:
        """All that are set aside."""
        return [job for group in self._parked.values() for job in group.values()]

    def jobs(self) -> list[Job]:
        """All of them."""
        return list(self._jobs.values())
