"""Where texts become ids: short ones on the caller's thread, long ones on threads that take only what the model leaves.

Knows nothing about vocabularies. Invariant: the interpreter is free while a text is being cut, and the ids do not
depend on which thread did it.

The library spreads a batch over worker threads of its own, which it makes at the first batch of two; threads inherit
the policy of whoever makes them.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Final

from tokenizers import Tokenizer as HfTokenizer

# A text of this length is some 8,000 tokens: ten milliseconds of work.
LONG_CHARS: Final = 32_768


def start_encoders(hf: HfTokenizer) -> None:
    """Makes the library's worker threads, which then run where the cores have nothing else to do.

    Nice levels are not enough: a thread that computes the model waits for its mates every fraction of a millisecond;
    one that wakes up passes a thread of a lower nice level only after that one's slice of three milliseconds, an idle
    thread at once. Only Linux has policies of single threads.
    """
    starter = threading.Thread(target=_start, args=(hf,), name="penstock-encoders")
    starter.start()
    starter.join()


def _start(hf: HfTokenizer) -> None:
    if sys.platform == "linux":
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
    hf.encode_batch_fast(["", ""], add_special_tokens=False)


def encode_ids(hf: HfTokenizer, text: str) -> list[int]:
    """Ids of one text, without special tokens.

    The library's batch call releases the interpreter while it works, its single call does not; a batch of one stays on
    this thread, so a long text gets an empty companion.
    """
    batch = [text, ""] if len(text) >= LONG_CHARS else [text]
    ids: list[int] = hf.encode_batch_fast(batch, add_special_tokens=False)[0].ids
    return ids
