from penstock.core import (
    DeadlineExceeded,
    Event,
    Finish,
    FinishReason,
    InvalidLogits,
    Request,
    SamplingParams,
    Timing,
    Usage,
)
from penstock.engine.counts import Counts, row_error


def test_each_end_is_booked_once():
    counts, request = Counts(), Request("r", (1, 2, 3), SamplingParams())

    def end(reason: FinishReason) -> Event:
        return Event(0, (), "", finish=Finish(reason, None, Usage(3, 1, 0), Timing(0, 0, 0, 0, 0)))

    counts.ended(request, end(FinishReason.STOP))
    counts.ended(request, end(FinishReason.LENGTH))
    counts.ended(request, end(FinishReason.CANCELLED))
    counts.ended(request, Event(0, (), "", error=InvalidLogits("x")))
    assert (counts.num_finished, counts.num_cancelled, counts.num_errors, counts.prompt_tokens) == (2, 1, 1, 6)


def test_codes_become_errors():
    assert isinstance(row_error("invalid_logits"), InvalidLogits)
    assert isinstance(row_error("deadline_exceeded"), DeadlineExceeded)
    assert row_error("other").code == "other" and row_error("other").status == 500
