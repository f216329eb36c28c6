"""The line in front of the slots."""

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core import Request, SamplingParams, Sequence
from penstock.kv import PromptPages
from penstock.sched.job import Job
from penstock.sched.queue import WaitingQueue


def make_job(id, rank=None, prompt=3, joined_s=0.0):
    request = Request(f"r{id}", (1,) * prompt, SamplingParams(seed=1))
    job = Job(Sequence(id, request, 0, [1] * prompt, prompt), PromptPages((), b""), 10, joined_s)
    job.rank = (0, float(id if rank is None else rank), id)
    return job


def lead(job, leader):
    job.leader = leader
    return job


def test_the_best_rank_is_first_and_the_oldest_is_known():
    queue = WaitingQueue()
    assert queue.first() is None and queue.oldest_s is None
    jobs = [make_job(0, rank=5, joined_s=1.0), make_job(1, rank=2, joined_s=2.0)]
    for job in jobs:
        queue.push(job)
    assert queue.first() is jobs[1] and queue.oldest_s == 1.0 and queue.num_tokens == 6
    queue.remove(jobs[0])
    assert queue.oldest_s == 2.0 and jobs[0] not in queue and jobs[1] in queue


def test_parked_jobs_keep_their_rank_and_are_grouped_by_what_they_wait_for():
    queue, leader = WaitingQueue(), make_job(9)
    one, two, three = (make_job(i) for i in range(3))
    for job in (one, two, three):
        queue.push(job)
    queue.park(lead(one, leader))
    queue.park(lead(two, leader))
    assert queue.first() is three and len(queue) == 3
    queue.park(lead(three, make_job(8)))
    assert queue.first() is None
    assert queue.first_parked() == [one, three] and queue.parked_with(two) == [one, two]
    queue.remove(one)
    assert queue.first_parked() == [two, three] and queue.parked() == [two, three]
    queue.unpark(three)
    queue.unpark(two)
    assert queue.first() is two and queue.parked() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("push", "push", "park", "unpark", "remove")), st.integers(0, 9))))
def test_against_a_sorted_list(operations):
    queue, waiting, parked, used = WaitingQueue(), {}, {}, 0
    leader = make_job(99)
    for name, number in operations:
        if name == "push":
            job = make_job(used, rank=(number * 7) % 5)
            used += 1
            queue.push(job)
            waiting[job.sequence.id] = job
        elif name == "park" and waiting:
            job = min(waiting.values(), key=lambda job: job.rank)
            queue.first()
            queue.park(lead(job, leader))
            parked[job.sequence.id] = waiting.pop(job.sequence.id)
        elif name == "unpark" and parked:
            job = parked.pop(min(parked))
            queue.unpark(job)
            waiting[job.sequence.id] = job
        elif waiting or parked:
            everyone = waiting | parked
            job = everyone[sorted(everyone)[number % len(everyone)]]
            queue.remove(job)
            waiting.pop(job.sequence.id, None)
            parked.pop(job.sequence.id, None)
        best = min(waiting.values(), key=lambda job: job.rank, default=None)
        assert queue.first() is best and len(queue) == len(waiting) + len(parked)
        assert queue.num_tokens == 3 * len(queue) and {job.sequence.id for job in queue.parked()} == parked.keys()
