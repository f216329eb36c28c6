"""JSON is measured before it is parsed, and the measure is no less than what parsing takes."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from penstock.core import check_json_bounds, limits

MANY = 20_000


@pytest.mark.parametrize(
    "value",
    [
        [[] for _ in range(MANY)],
        [{} for _ in range(MANY)],
        [1.5] * MANY,
        list(range(10**12, 10**12 + MANY)),
        {f"k{at}": at for at in range(MANY)},
        {f"k{at}": {"dtype": "F32", "shape": [at, 2000], "data_offsets": [at, at + 9999]} for at in range(MANY // 10)},
        ["x" * 100_000 + "😀"],
        ["é" * 100_000],
        ["a" * 50] * MANY,
    ],
    ids=["lists", "objects", "floats", "integers", "keys", "tensors", "wide", "latin", "strings"],
)
@pytest.mark.parametrize("escaped", [False, True])
def test_what_passes_parses_within_it(value: object, escaped: bool) -> None:
    data = json.dumps(value, ensure_ascii=escaped, separators=(",", ":")).encode()
    low, high = 0, limits.MAX_OVERHEAD_BYTES
    while high - low > 1000:  # the least overhead that is passed
        middle = (low + high) // 2
        try:
            check_json_bounds(data, middle)
            high = middle
        except ValueError:
            low = middle
    tracemalloc.start()
    json.loads(data.decode(), object_pairs_hook=dict)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= (high + len(data)) * 1.3
    assert high < 30 * peak + 4 * len(data)  # no wild guess either


def test_bounds_are_said() -> None:
    check_json_bounds(b'{"a": "[[[[]]]],,,::", "b": [1, 2]}')
    for data, said in (
        (b"[" * 65 + b"]" * 65, "65 levels deep; at most 64"),
        (b"[]" + b"]" * 10, "closes what it never opened"),
        (b"[" + b"[]," * 10**6, "bytes of memory; at most 67108864 above its size"),
    ):
        with pytest.raises(ValueError, match=said):
            check_json_bounds(data)
