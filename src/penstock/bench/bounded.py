"""Answers of servers that are asked beside a run, read no further than a bound.

Knows nothing about what they mean. Invariant: no more than the bound and one chunk is ever held.
"""

from __future__ import annotations

import httpx


def read_bounded(answer: httpx.Response, max_bytes: int) -> bytes:
    """The body of a streamed answer.

    Raises:
        ValueError: it is longer than `max_bytes`.
    """
    data = bytearray()
    for chunk in answer.iter_bytes():
        data += chunk
        if len(data) > max_bytes:
            raise ValueError(f"the answer is longer than {max_bytes} bytes")
    return bytes(data)
