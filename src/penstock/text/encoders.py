"""Where texts become ids: short ones on the caller's thread, long ones on threads that step back behind the model's.

Knows nothing about vocabularies. Invariant: the interpreter is free while a text is being cut, and the ids do not
depend on which thread did it.

The library spreads a batch over worker threads of its own, which it makes at the first batch of two; threads inherit
the priority of whoever makes them.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Final

from tokenizers import Tokenizer as HfTokenizer

# A text of this length is some 8,000 tokens: ten milliseconds of work.
LONG_CHARS: Final = 32_768
# A tenth of what a thread at the usual priority gets beside it: a prompt of 100,000 tokens is still cut within seconds
# on a machine whose cores all compute, and streams that run are not felt to slow down.
NICE_STEP: Final = 10


def start_encoders(hf: HfTokenizer) -> None:
    """Makes the library's worker threads, at a low priority where the system has priorities of single threads."""
    starter = threading.Thread(target=_start, args=(hf,), name="penstock-encoders")
    starter.start()
    starter.join()


def _start(hf: HfTokenizer) -> None:
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICE_STEP)
    hf.encode_batch_fast(["", ""], add_special_tokens=False)


def encode_ids(hf: HfTokenizer, text: str) -> list[int]:
    """Ids of one text, without special tokens.

    The library's batch call releases the interpreter while it works, its single call does not; a batch of one stays on
    this thread, so a long text gets an empty companion.
    """
    batch = [text, ""] if len(text) >= LONG_CHARS else [text]
    ids: list[int] = hf.encode_batch_fast(batch, add_special_tokens=False)[0].ids
    return ids
