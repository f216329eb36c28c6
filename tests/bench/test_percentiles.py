import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.percentiles import distribution, percentile_with_missing

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


def test_the_stated_rule() -> None:
    found = distribution([40.0, 10.0, 20.0, 30.0], percents=(0.0, 25.0, 50.0, 90.0, 100.0))
    assert found is not None
    # Positions 0, 0.75, 1.5, 2.7, 3 of 10, 20, 30, 40.
    assert list(found.percentiles.values()) == pytest.approx([10.0, 17.5, 25.0, 37.0, 40.0])
    assert (found.count, found.mean, found.min, found.max) == (4, 25.0, 10.0, 40.0)
    assert found.std == pytest.approx(math.sqrt(125))


def test_nothing_has_no_distribution() -> None:
    assert distribution([], missing=3) is None


@given(VALUES, st.integers(0, 20), st.integers(0, 1000))
def test_missing_ones_are_infinite(values: list[float], missing: int, tenths: int) -> None:
    found = percentile_with_missing(np.sort(np.asarray(values)), missing, tenths / 10)
    expected = np.percentile([*values, *[1e12] * missing], tenths / 10)  # far away stands for infinity
    if found is None:
        assert expected > 1e8
    else:
        assert found == pytest.approx(expected, abs=1e-2)
        assert found <= max(values)


def test_a_rounding_error_is_no_neighbour() -> None:
    ordered = np.arange(1000.0)
    for tenths in range(1000):
        assert percentile_with_missing(ordered, 1, tenths / 10) == pytest.approx(tenths)


def test_failures_move_the_tail_not_the_plain_percentile() -> None:
    values = [float(value) for value in range(1, 91)]
    plain, spoiled = distribution(values), distribution(values, missing=10)
    assert plain is not None and spoiled is not None
    assert plain.percentiles == spoiled.percentiles
    assert spoiled.with_missing[95.0] is None
    assert spoiled.with_missing[50.0] == pytest.approx(50.5) and plain.with_missing[50.0] == pytest.approx(45.5)
