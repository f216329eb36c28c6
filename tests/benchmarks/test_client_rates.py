"""The rates of the load generator's own benchmark: one refusal ends nothing, two of a rate end the series."""

from __future__ import annotations

from benchmarks.client import GROWTH, MAX_RATE, START_RATE, highest


def series(*refused_calls: int, failed_calls: tuple[int, ...] = ()) -> list[float]:
    """Rates that were tried where the calls of these numbers were refused, or lost a request."""
    tried: list[float] = []

    def try_rate(rate: float) -> dict[str, object]:
        tried.append(rate)
        number = len(tried) - 1
        return {"invalid": ["late"] * (number in refused_calls), "ok": 0.99 if number in failed_calls else 1.0}

    assert len(highest(try_rate)) == len(tried)
    return tried


def test_one_stall_is_tried_again_and_the_series_goes_on() -> None:
    calm, stalled = series(6, 7), series(2, 7, 8)
    assert calm == [START_RATE * GROWTH**at for at in (0, 1, 2, 3, 4, 5, 6, 6)]
    assert stalled == [START_RATE * GROWTH**at for at in (0, 1, 2, 2, 3, 4, 5, 6, 6)]


def test_two_refusals_of_different_rates_end_nothing() -> None:
    assert len(series(1, 3, 5)) > 20
    assert max(series()) < MAX_RATE


def test_a_lost_request_counts_as_a_refusal() -> None:
    assert len(series(1, failed_calls=(2,))) == 3
