from hypothesis import given
from hypothesis import strategies as st

from penstock.sched import policy


@given(
    start=st.integers(0, 100_000),
    most=st.integers(0, 5000),
    spare=st.floats(0, 1),
    token=st.floats(1e-6, 1e-3),
    read=st.floats(0, 1e-6),
)
def test_a_chunk_is_the_largest_that_fits(start, most, spare, token, read):
    def seconds(n):
        return token * n + read * policy.kv_read(start, n)

    count = policy.chunk_tokens(start, most, spare, token, read)
    assert 0 <= count <= most
    assert seconds(count) <= spare * (1 + 1e-9) + 1e-12
    assert count == most or seconds(count + 1) > spare * (1 - 1e-6) - 1e-9


def test_the_order_of_two_waiters_does_not_depend_on_now():
    old_long = policy.rank(0, 300, 1.0, 100.0, 1)
    assert old_long < policy.rank(0, 10, 3.9 + 0.1, 100.0, 2)
    assert policy.rank(0, 10, 3.8, 100.0, 2) < old_long
    assert policy.rank(-1, 9999, 9.0, 100.0, 9) < old_long
