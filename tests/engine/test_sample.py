from hypothesis import given
from hypothesis import strategies as st

from penstock.core import FinishReason, Outcome, Request, SamplingParams, Sequence, TokenLogprobs
from penstock.engine.sample import SampleOutput


class SlowLetters:
    """A decoder that holds one letter back."""

    def __init__(self):
        self.held = ""

    def stream(self, skip_special_tokens, after=None):
        return SlowLetters()

    def push(self, tokens):
        text = self.held + "".join(chr(97 + token) for token in tokens)
        self.held = text[-1:]
        return text[:-1]

    def flush(self):
        held, self.held = self.held, ""
        return held


def outcome(request, tokens, finish=None, stop_token=None, prompt_logprobs=None):
    sequence = Sequence(0, request, 0, list(request.prompt_tokens), len(request.prompt_tokens))
    logprobs = tuple(TokenLogprobs(token, 0.0, 1, ()) for token in tokens)
    return Outcome(sequence, tuple(tokens), logprobs, prompt_logprobs, finish, stop_token, None)


@given(
    tokens=st.lists(st.integers(0, 2), min_size=1, max_size=30),
    cuts=st.lists(st.integers(1, 4), min_size=30, max_size=30),
    stop=st.text("abc", min_size=1, max_size=3),
    include=st.booleans(),
    min_tokens=st.integers(0, 6),
)
def test_stops_over_any_split_equal_a_search_in_the_whole_text(tokens, cuts, stop, include, min_tokens):
    """Several tokens an outcome (speculation) or one: same text, same count, same reason."""
    request = Request("r", (1,), SamplingParams(stop=(stop,), include_stop=include, min_tokens=min_tokens))
    sample = SampleOutput(request, 0, SlowLetters())
    text, count, finish, place = "", 0, None, 0
    for cut in cuts:
        if place >= len(tokens) or finish is not None:
            break
        last = place + cut >= len(tokens)
        event = sample.push(outcome(request, tokens[place : place + cut], FinishReason.LENGTH if last else None), 1.0)
        place += cut
        if event is not None:
            assert event.logprobs is None or len(event.logprobs) == len(event.tokens)
            text, count, finish = text + event.text, count + len(event.tokens), event.finish
    assert finish is not None
    whole = "".join(chr(97 + token) for token in tokens)
    # The decoder is one letter late, so the text of the first k tokens is k - 1 letters.
    free = max(0, min_tokens - 1) if min_tokens < len(tokens) or min_tokens == 0 else max(0, len(tokens) - 1)
    found = whole.find(stop, free)
    if found < 0:
        assert (text, count, finish.reason) == (whole, len(tokens), FinishReason.LENGTH)
        return
    end = found + len(stop)
    assert text == whole[: end if include else found]
    assert finish.reason is FinishReason.STOP and finish.stop == stop
    assert finish.usage.completion_tokens == count == min(len(tokens), end + 1)


def test_prompt_logprobs_start_again_after_a_preemption():
    request = Request("r", (1, 2, 3), SamplingParams(prompt_logprobs=0))
    sample = SampleOutput(request, 0, SlowLetters())
    first, second = (TokenLogprobs(token, 0.0, 1, ()) for token in (2, 3))
    assert sample.push(outcome(request, (), prompt_logprobs=(first,)), 0.0) is None
    assert sample.push(outcome(request, (), prompt_logprobs=(first,)), 0.0) is None
    event = sample.push(outcome(request, (4,), prompt_logprobs=(second,)), 0.0)
    assert event.prompt_logprobs == (None, first, second)
    assert sample.push(outcome(request, (4,)), 0.0).prompt_logprobs is None


def test_the_decoder_knows_the_token_before():
    seen = []

    class Noting(SlowLetters):
        def stream(self, skip_special_tokens, after=None):
            seen.append((skip_special_tokens, after))
            return self

    SampleOutput(Request("r", (1, 2, 3), SamplingParams(skip_special_tokens=False)), 0, Noting())
    assert seen == [(False, 3)]


def test_no_text_is_made_where_none_is_asked():
    request = Request("r", (1,), SamplingParams(stop=("a",)), detokenize=False)
    event = SampleOutput(request, 0, SlowLetters()).push(outcome(request, (0, 0)), 0.0)
    assert event.text == "" and event.tokens == (0, 0) and event.finish is None
