"""Every metric on requests whose times are written by hand."""

import pytest

from penstock.bench.definitions import (
    METRICS,
    POOLED,
    Objective,
    arrivals_window,
    cost_per_million,
    count_by_text,
    parse_objectives,
    summarize,
    timing_of,
)
from penstock.bench.records import Counted, Outcome, Seen, Window
from penstock.core import ConfigError


def seen(id: int = 0, **fields: object) -> Seen:
    """Due at 10 s, sent at 10.5; chunks at 11, 11.2, 11.6, 12.0; four tokens; finished at 12.0, ended at 12.1."""
    given: dict[str, object] = {
        "intended_s": 10.0,
        "sent_s": 10.5,
        "chunks_s": [11.0, 11.2, 11.6, 12.0],
        "finish_s": 12.0,
        "end_s": 12.1,
        "outcome": Outcome.OK,
        "status": 200,
        "prompt_tokens": 8,
        "output_tokens": 4,
        "counted": Counted.USAGE,
    }
    return Seen(id, **(given | fields))  # type: ignore[arg-type]


def failed(id: int, outcome: Outcome = Outcome.FAILED, **fields: object) -> Seen:
    return seen(id, **({"outcome": outcome, "chunks_s": [], "finish_s": None, "output_tokens": None} | fields))


def test_one_request() -> None:
    timing = timing_of(seen())
    assert (timing.ttft_s, timing.ttft_sent_s) == pytest.approx((1.0, 0.5))
    assert (timing.e2e_s, timing.e2e_sent_s) == pytest.approx((2.0, 1.5))
    assert timing.tpot_s == pytest.approx(1.0 / 3)
    assert timing.ntpot_s == pytest.approx(2.0 / 4)
    assert timing.gaps_s == pytest.approx((0.2, 0.4, 0.4))
    assert (timing.itl_s, timing.stall_s) == pytest.approx((1.0 / 3, 0.4))


def test_tpot_leaves_the_first_token_out() -> None:
    timing = timing_of(seen())
    wrong = (12.0 - 10.5) / 4  # what a definition over all tokens gives
    assert timing.tpot_s == pytest.approx((timing.e2e_s - timing.ttft_s) / 3)  # type: ignore[operator]
    assert abs(timing.tpot_s - wrong) > 0.03  # type: ignore[operator]


def test_tokens_not_chunks_divide() -> None:
    assert timing_of(seen(output_tokens=11)).tpot_s == pytest.approx(0.1)
    assert timing_of(seen(output_tokens=None)).tpot_s is None
    assert timing_of(seen(output_tokens=1, chunks_s=[11.0])).tpot_s is None


def test_a_last_token_that_shows_nothing_still_takes_its_time() -> None:
    timing = timing_of(seen(finish_s=12.5, output_tokens=5))
    assert (timing.e2e_s, timing.tpot_s) == pytest.approx((2.5, 1.5 / 4))
    assert timing.stall_s == pytest.approx(0.4)


def test_an_answer_that_was_not_streamed_has_only_its_end() -> None:
    timing = timing_of(seen(chunks_s=[], finish_s=None))
    assert (timing.e2e_s, timing.e2e_sent_s) == pytest.approx((2.1, 1.6))
    assert (timing.ttft_s, timing.tpot_s, timing.itl_s, timing.stall_s) == (None, None, None, None)


def test_a_mean_over_gaps_is_not_one_over_requests() -> None:
    long = seen(0, chunks_s=[float(time) for time in range(11, 111)])  # 99 gaps of 1 s
    short = seen(1, chunks_s=[11.0, 16.0])  # one gap of 5 s
    found = summarize([long, short], Window(0, 200)).latencies
    assert found["itl"].mean == pytest.approx(3.0)
    assert found[POOLED].mean == pytest.approx((99 + 5) / 100)


def test_the_window_takes_arrivals_for_latency_and_ends_for_throughput() -> None:
    early = seen(0, intended_s=1.0, sent_s=1.0)  # its tokens come within the window
    inside = seen(1)
    late = seen(2, intended_s=11.5, sent_s=11.5, chunks_s=[11.9, 30.0], finish_s=30.0, end_s=30.0)
    found = summarize([early, inside, late], Window(5.0, 15.0))
    assert (found.arrived, found.latencies["e2e"].count) == (2, 2)
    assert found.requests_per_s == pytest.approx(2 / 10)
    assert found.output_tokens_per_s == pytest.approx((4 + 4 + 2) / 10)  # half of the late one's chunks
    assert found.prompt_tokens_per_s == pytest.approx(3 * 8 / 10)
    assert (found.prompt_tokens, found.output_tokens) == (16, 8)


def test_an_arrival_at_the_end_of_the_window_is_outside() -> None:
    assert summarize([seen(0), seen(1, intended_s=20.0)], Window(10.0, 20.0)).arrived == 1


def test_failures_stand_beside_the_percentiles() -> None:
    some = [seen(id) for id in range(8)]
    lost = [
        failed(8, Outcome.REFUSED, status=429, retry_after_s=3.0),
        failed(9, Outcome.TIMEOUT),
        failed(10, Outcome.UNFINISHED, sent_s=None, end_s=None),
    ]
    found = summarize([*some, *lost], Window(0, 20))
    assert found.outcomes == {Outcome.OK: 8, Outcome.REFUSED: 1, Outcome.TIMEOUT: 1, Outcome.UNFINISHED: 1}
    ttft = found.latencies["ttft"]
    assert (ttft.count, ttft.missing) == (8, 3)
    assert ttft.percentiles[99.0] == pytest.approx(1.0) and ttft.with_missing[99.0] is None
    assert found.retry_after is not None and found.retry_after.mean == 3.0
    assert found.uncounted == 0


def test_goodput_counts_every_arrival() -> None:
    slow = seen(1, chunks_s=[11.5, 12.0])
    one_token = seen(2, chunks_s=[11.0], finish_s=11.0, end_s=11.0, output_tokens=1)
    uncounted = seen(3, output_tokens=None)
    found = summarize(
        [seen(0), slow, one_token, uncounted, failed(4)],
        Window(5.0, 15.0),
        (Objective("ttft", 1.2), Objective("tpot", 0.5)),
    ).goodput
    assert found is not None
    assert found.good == 2  # the first, and the one that has no second token to wait for
    assert found.attainment == pytest.approx(2 / 5)
    assert found.by_metric == pytest.approx({"ttft": 3 / 5, "tpot": 3 / 5})
    assert (found.requests_per_s, found.tokens_per_s) == pytest.approx((0.2, 0.5))


def test_an_objective_on_gaps() -> None:
    requests = [seen(0), seen(1, chunks_s=[11.0]), seen(2, chunks_s=[])]
    found = summarize(requests, Window(5.0, 15.0), (Objective("stall", 0.3),)).goodput
    assert found is not None and found.good == 1  # one chunk has no gap; an answer in one piece is not known


def test_empty_windows_are_refused() -> None:
    for window in (Window(5, 5), Window(6, 5), Window(0, float("inf")), Window(float("nan"), 3)):
        with pytest.raises(ConfigError, match="hint"):
            summarize([seen()], window)


def test_objectives_are_read_with_units() -> None:
    assert parse_objectives("ttft=200ms, tpot=0.05s,e2e=1e1s") == (
        Objective("ttft", pytest.approx(0.2)),
        Objective("tpot", 0.05),
        Objective("e2e", 10.0),
    )


@pytest.mark.parametrize(
    "text", ["", "ttft", "ttft=200", "ttft=0s", "ttft=infs", "ttft=-1s", "x=1s", "e2e=1s,e2e=2s", "e2e=1sm"]
)
def test_objectives_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="hint"):
        parse_objectives(text)


def test_every_metric_is_a_latency() -> None:
    assert set(summarize([seen()], Window(0, 20)).latencies) == {*METRICS, POOLED}


def test_cost() -> None:
    assert cost_per_million(3.6, 100.0) == pytest.approx(10.0)
    assert cost_per_million(3.6, 0.0) is None


def test_a_tokenizer_counts_what_usage_did_not() -> None:
    some = [seen(0), seen(1, output_tokens=None, counted=Counted.UNKNOWN), failed(2)]
    assert count_by_text(some, {0: "a b", 1: "a b c", 2: "a"}, lambda text: len(text.split())) == 1
    assert [one.output_tokens for one in some] == [4, 3, None]
    assert some[1].counted is Counted.TOKENIZER


def test_the_window_of_arrivals() -> None:
    window = arrivals_window([seen(0), seen(1, intended_s=14.0)], warmup_s=5.0)
    assert window.begin_s == 5.0 and summarize([seen(1, intended_s=14.0)], window).arrived == 1
    assert arrivals_window([seen()], 1.0, 9.0) == Window(1.0, 9.0)
