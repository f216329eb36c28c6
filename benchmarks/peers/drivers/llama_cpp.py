"""llama.cpp: `llama_decode` with one sequence id a stream, keys and values in float16, as its batched benchmark does.

Every stream has the same prompt: it is computed once and copied, as that benchmark does; the streams part at their
first token. Variants: "flash" and "no flash" attention.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import llama_cpp
import numpy as np
from benchmarks.peers.protocol import Choices, Times, serve

BATCH_TOKENS, MICRO_BATCH_TOKENS = 2048, 512  # its defaults
PAD_TOKENS = 256
FLASH = {"flash": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED, "no flash": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED}


@llama_cpp.llama_log_callback
def silent(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Takes log lines; stderr would slow what is measured."""


class LlamaCpp:
    """Drives the C interface, with a context of its own for each call."""

    def load(self, choices: Choices) -> str:
        llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._threads = choices.threads
        params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(choices.model.encode(), params)
        if not self._model:
            raise ValueError(f"{choices.model} was not loaded.")
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        return f"llama-cpp-python {llama_cpp.__version__}, f16 KV, llama_decode"

    @contextmanager
    def _context(self, streams: int, tokens: int, variant: str) -> Iterator[Stepper]:
        params = llama_cpp.llama_context_default_params()
        each = -(-tokens // PAD_TOKENS) * PAD_TOKENS
        params.n_ctx, params.n_seq_max, params.kv_unified = each * streams, streams, False
        params.n_batch, params.n_ubatch = BATCH_TOKENS, MICRO_BATCH_TOKENS
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn_type = FLASH[variant or "flash"]
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            raise MemoryError(f"no context of {each * streams:,} tokens.")
        batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        try:
            yield Stepper(context, batch, self._vocab)
        finally:
            llama_cpp.llama_batch_free(batch)
            llama_cpp.llama_free(context)

    def run(self, prompts: list[list[int]], new_tokens: int, variant: str) -> Times:
        prompt, streams = prompts[0], len(prompts)
        with self._context(streams, len(prompt) + new_tokens, variant) as stepper:
            start = time.perf_counter()
            first = stepper.read(prompt)
            times = [time.perf_counter()]
            stepper.copy(streams)
            tokens = [first if streams == 1 else each[-1] for each in prompts]
            if streams > 1 and new_tokens > 1:  # the copies happen in the step after them
                tokens = stepper.step(tokens, len(prompt))
                times = [time.perf_counter()]
            for position in range(len(prompt) + (streams > 1), len(prompt) + (streams > 1) + new_tokens - 1):
                tokens = stepper.step(tokens, position)
                times.append(time.perf_counter())
        return start, [times] * streams

    def generate(self, prompt: list[int], count: int) -> list[int]:
        with self._context(1, len(prompt) + count, "") as stepper:
            found = [stepper.read(prompt)]
            for position in range(len(prompt), len(prompt) + count - 1):
                found += stepper.step(found[-1:], position)
        return found


class Stepper:
    """Fills batches of one context."""

    def __init__(self, context: llama_cpp.llama_context_p, batch: llama_cpp.llama_batch, vocab: int) -> None:
        self._context, self._batch, self._vocab = context, batch, vocab

    def _decode(self, tokens: Sequence[tuple[int, int, int, bool]]) -> None:
        """Each is (token, position, sequence, whether its logits are wanted)."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        if (code := llama_cpp.llama_decode(self._context, batch)) != 0:
            raise RuntimeError(f"llama_decode returned {code}.")

    def _greedy(self, index: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, index)
        return int(np.argmax(np.ctypeslib.as_array(logits, (self._vocab,))))

    def read(self, prompt: list[int]) -> int:
        """Computes a prompt as sequence 0; returns the first token."""
        last = len(prompt) - 1
        for at in range(0, len(prompt), BATCH_TOKENS):
            part = prompt[at : at + BATCH_TOKENS]
            self._decode([(token, at + i, 0, at + i == last) for i, token in enumerate(part)])
        return self._greedy(-1)

    def copy(self, streams: int) -> None:
        """Gives every other sequence what sequence 0 holds, each its own."""
        memory = llama_cpp.llama_get_memory(self._context)
        for sequence in range(1, streams):
            llama_cpp.llama_memory_seq_cp(memory, 0, sequence, -1, -1)

    def step(self, tokens: list[int], position: int) -> list[int]:
        """One token for each sequence; returns the next ones."""
        self._decode([(token, position, sequence, True) for sequence, token in enumerate(tokens)])
        return [self._greedy(index) for index in range(len(tokens))]


if __name__ == "__main__":
    serve(LlamaCpp())
