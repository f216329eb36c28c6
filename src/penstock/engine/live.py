"""A request between the door and its end: its stream and the text side of its samples.

Knows nothing about steps. Invariant: `remaining` counts the samples whose finish has not been given out.
"""

from __future__ import annotations

from penstock.core import TextDecoder
from penstock.engine.sample import SampleOutput
from penstock.engine.stream import EventStream


class Live:
    """What the loop keeps of one request.

    Args:
        stream: to its reader.
        text: makes the decoders.

    Attributes:
        stream: as given.
        samples: by index.
        remaining: samples that still run.
    """

    __slots__ = ("remaining", "samples", "stream")

    def __init__(self, stream: EventStream, text: TextDecoder) -> None:
        request = stream.request
        self.stream = stream
        self.samples = [SampleOutput(request, sample, text) for sample in range(request.sampling.n)]
        self.remaining = request.sampling.n
