"""What a driver answers, one JSON object a line, and what its times mean; runs in every peer's environment.

Knows nothing about any peer, and imports the standard library only. Invariant: the prompts are made here, from a seed
that no call repeats, and a rate is counted here from the times of single tokens, so that both are the same for all.

    {"do": "load", "model": PATH, "format": NAME, "threads": 2, "max_streams": S, "max_tokens": N,
     "total_tokens": T, "options": {}}
    {"do": "prefill", "tokens": N, "seed": I}
    {"do": "decode", "streams": S, "depth": D, "steps": K, "seed": I}
    {"do": "generate", "prompt": [IDS], "count": N}

Each is answered by {"ok": {...}} or {"error": "..."}; what a peer prints goes to stderr.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

FIRST_ID, LAST_ID = 1_000, 100_000  # ids of ordinary tokens in the vocabulary of the checkpoint
LIMIT_TEXT = 600
PR_SET_PDEATHSIG = 1  # of prctl(2)

Times = tuple[float, list[list[float]]]  # by time.perf_counter: the beginning, and every token of every sequence


@dataclass(frozen=True)
class Choices:
    """How a model is loaded.

    Attributes:
        model: path of what the peer reads.
        format: of the weights, as the contender names it.
        threads: that may compute.
        max_streams: sequences at once, at most.
        max_tokens: that one sequence holds, at most.
        total_tokens: that all sequences hold at once, at most.
        options: of this contender alone.
    """

    model: str
    format: str
    threads: int
    max_streams: int
    max_tokens: int
    total_tokens: int
    options: dict[str, Any]


class Driver(Protocol):
    """One peer. Prompts are token ids; choosing is greedy, no end token ends, no cache outlives a call."""

    def load(self, choices: Choices) -> str:
        """Loads the model; returns a note for people: version, KV type and the like."""

    def run(self, prompts: list[list[int]], new_tokens: int, variant: str) -> Times:
        """At least `new_tokens` tokens for each prompt, all at once; when it began, and when each token came.

        It begins when prompts are handed over: what a peer makes before it reads the first (buffers) does not count.
        """

    def generate(self, prompt: list[int], count: int) -> list[int]:
        """The first `count` greedy tokens after a prompt."""


def prompt(seed: int, index: int, length: int) -> list[int]:
    """Token ids of one prompt; no other seed, index or length makes the same, or one that begins like it."""
    chance = random.Random(f"{seed} {index} {length}")
    return [chance.randrange(FIRST_ID, LAST_ID) for _ in range(length)]


def window(times: list[list[float]]) -> tuple[int, float]:
    """(tokens, seconds) while all sequences decoded: from the last one's first token to the first one's last.

    A prompt that came first decodes while others are still read; that time counts for nobody.
    """
    begin, end = max(each[0] for each in times), min(each[-1] for each in times)
    if end <= begin:
        raise ValueError("one sequence had ended before the last one began: too few steps were asked for.")
    return sum(begin < at <= end for each in times for at in each), end - begin


def prefill(driver: Driver, order: dict[str, Any]) -> dict[str, Any]:
    """One prompt, from its handing over to its first token."""
    ids = prompt(order["seed"], 0, order["tokens"])
    start, times = driver.run([ids], 1, order.get("variant", ""))
    return {"tokens": order["tokens"], "seconds": times[0][0] - start}


def decode(driver: Driver, order: dict[str, Any]) -> dict[str, Any]:
    """All streams at that depth, at least so many steps after the last one's first token."""
    prompts = [prompt(order["seed"], index, order["depth"]) for index in range(order["streams"])]
    start, times = driver.run(prompts, order["steps"] + 1, order.get("variant", ""))
    tokens, seconds = window(times)
    found: dict[str, Any] = {"tokens": tokens, "seconds": seconds}
    if len(prompts) == 1:  # its prompt was read like any other
        found["prefill"] = {"tokens": order["depth"], "seconds": times[0][0] - start}
    return found


def load(driver: Driver, order: dict[str, Any]) -> dict[str, Any]:
    """Loads the model."""
    start = time.perf_counter()
    note = driver.load(Choices(**{name: value for name, value in order.items() if name != "do"}))
    return {"note": note, "seconds": time.perf_counter() - start}


def answer(driver: Driver, order: dict[str, Any]) -> dict[str, Any]:
    """What one order comes to."""
    if order["do"] == "generate":
        return {"tokens": driver.generate(order["prompt"], order["count"])}
    return {"load": load, "prefill": prefill, "decode": decode}[order["do"]](driver, order)


def end_with_parent() -> None:
    """Lets the kernel end this process with its parent: a stopped one would never see that its input was closed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(driver: Driver) -> None:
    """Answers orders until there are no more; everything else that is printed goes to stderr."""
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            said: dict[str, Any] = {"ok": answer(driver, json.loads(line))}
        except Exception as error:  # a peer may raise anything, and the others go on
            said = {"error": f"{type(error).__name__}: {error}"[:LIMIT_TEXT]}
        answers.write(json.dumps(said) + "\n")
        answers.flush()
