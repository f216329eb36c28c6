"""What a model makes of given texts: log probabilities after every token, by the CPU backend.

Knows nothing about what they are compared with. Invariant: a window is read through the backend that serves, with the
KV type and kernels asked for, a piece at a time.
"""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock.backend.cpu import CpuBackend, CpuOptions
from penstock.core import SAMPLE, Opened, Row, SamplingParams, StepPlan
from penstock.model import Checkpoint

PIECE = 64  # positions whose logits exist at once
PAGE_TOKENS = 32
GREEDY = SamplingParams(temperature=0.0)
OPENERS = {".bz2": bz2.open, ".gz": gzip.open}

Logprobs = npt.NDArray[np.float64]  # [positions, V]


class Reader:
    """A backend of one KV type with pages for one window; `isa` is the compute tier at most."""

    def __init__(
        self, checkpoint: Checkpoint, kv_type: str, context: int, threads: int | None = None, isa: str | None = None
    ) -> None:
        options = CpuOptions(context, 1, PIECE, PAGE_TOKENS, threads, kv_type=kv_type, isa=isa)
        self._backend = CpuBackend(checkpoint.spec, checkpoint.weights, options)
        self._num_pages = -(-context // PAGE_TOKENS)
        self._backend.allocate((self._num_pages,) * len(self._backend.kv_groups))
        self._steps = 0

    @property
    def tier(self) -> str:
        """The compute tier."""
        return self._backend.tier

    def read(self, tokens: tuple[int, ...]) -> Iterator[Logprobs]:
        """Log probabilities after each token, PIECE positions at a time."""
        for start in range(0, len(tokens), PIECE):
            yield self._piece(tokens, start)

    def _piece(self, tokens: tuple[int, ...], start: int) -> Logprobs:
        """One step of a fresh slot over the pages so far; its tokens but one are drafts, which have logits each."""
        piece = tokens[start : start + PIECE]
        opened = Opened(0, 0, 0, 0, tokens[: start + 1], start + 1, GREEDY, (), None, None)
        pages = tuple(range(self._num_pages))
        row = Row(0, start, piece, (pages,) * len(self._backend.kv_groups), len(piece) - 1, SAMPLE)
        released = (0,) if self._steps else ()
        ticket = self._backend.submit(StepPlan(self._steps, (opened,), (row,), (), released))
        logits = self._backend.peek_logits(ticket).astype(np.float64)
        result = self._backend.finish(ticket, None)
        if result.rows[0].error:
            raise SystemExit(f"the model gives {result.rows[0].error} with this KV type")
        self._steps += 1
        logits -= logits.max(-1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


def expect_texts(paths: Iterable[Path]) -> None:
    """Passes texts that are there: to be asked before anything is computed.

    Raises:
        SystemExit: one is not.
    """
    for path in paths:
        if not path.is_file():
            raise SystemExit(f"error: there is no text {path}. hint: --text FILE takes any text or .jsonl file.")


def read_text(path: Path) -> str:
    """A text file, or the `text` of every row of a .jsonl file; either may be packed by gzip or bzip2."""
    opener = OPENERS.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8") as stream:
        if ".jsonl" in path.name:
            return "\n\n".join(json.loads(line)["text"] for line in stream)
        return str(stream.read())
