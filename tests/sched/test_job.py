"""What a job keeps and what it forgets."""

from penstock.core import Request, SamplingParams, Sequence
from penstock.kv import PromptPages
from penstock.sched.job import Job, Refusal


def make_job(**fields):
    sampling = SamplingParams(seed=1, stop_token_ids=(7,), ignore_eos=fields.pop("ignore_eos", False))
    request = Request("r", (1, 2), sampling, eos_token_ids=(3,), **fields)
    return Job(Sequence(0, request, 0, [1, 2], 2), PromptPages((b"key",), b""), 10, 1.5)


def test_stops_are_end_tokens_and_the_requests_own():
    assert make_job().stops == {3, 7} and make_job(ignore_eos=True).stops == {7}


def test_a_grammar_needs_the_result_of_the_step_before():
    assert make_job(grammar="g").waits_alone and not make_job().waits_alone


def test_leaving_the_running_forgets_the_stay_and_keeps_the_place():
    job = make_job()
    job.boost, job.refusal, job.covered = (0, 1.0, 0), Refusal(1, (2,), 3), 32
    job.order, job.steps, job.sampled_step, job.sent_pages, job.short, job.doomed = 4, 1, 9, 2, True, True
    job.reset()
    assert (job.boost, job.refusal, job.covered, job.copies) == (None, None, 0, ())
    assert (job.order, job.steps, job.sampled_step, job.sent_pages, job.short, job.doomed) == (
        -1,
        0,
        -1,
        0,
        False,
        False,
    )
    assert (job.joined_s, job.limit, job.keys) == (1.5, 10, [b"key"])
