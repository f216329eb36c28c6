"""Drives a backend the way the scheduler does, with pages handed out in any order: for tests only."""

import threading

import numpy as np
import pytest

from penstock.backend.cpu import CpuBackend, CpuOptions
from penstock.core import NO_OUTPUT, SAMPLE, Opened, Row, SamplingParams, StepPlan
from penstock.engine import WallClock

GREEDY = SamplingParams(temperature=0.0)


def make_backend(spec, weights, *, kind="cpu", pages=64, **options):
    defaults = {"max_model_tokens": 512, "max_running": 16, "max_step_tokens": 1024, "page_tokens": 16}
    options = defaults | {"threads": 1, "kv_type": "f32"} | options
    if kind == "cpu":
        backend = CpuBackend(spec, weights, CpuOptions(**options))
    else:
        backend = make_torch_backend(spec, weights, options)
    backend.allocate((pages,) * len(backend.kv_groups))
    return backend


def make_torch_backend(spec, weights, options):
    """On the CPU, with as many threads as asked; a tier means nothing to it."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from penstock.backend.torch import TorchBackend, TorchOptions

    options.pop("isa", None)
    torch.set_num_threads(options.pop("threads"))
    return TorchBackend(spec, weights, TorchOptions(**options), WallClock())


def await_pack_cache():
    """Waits until what was packed lies in the cache under its name, so that the next start finds it."""
    for thread in threading.enumerate():
        if thread.name == "penstock-pack-cache":
            thread.join()


def opened(slot, tokens, sampling=GREEDY, num_prompt=None, seed=0, sample=0, eos=()):
    count = len(tokens) if num_prompt is None else num_prompt
    return Opened(slot, slot, sample, seed, tuple(tokens), count, sampling, tuple(eos), None, None)


class Driver:
    """Slots and pages by hand; every call to `step` is one plan."""

    def __init__(self, backend, page_tokens=16, page_order=None):
        self.backend = backend
        self.page_tokens = page_tokens
        self.free = list(page_order if page_order is not None else range(64))
        self.number = 0
        self.tables = {}
        self.pending = []
        self.released = []

    def open(self, slot, tokens, **options):
        self.tables[slot] = []
        self.pending.append(opened(slot, tokens, **options))

    def release(self, slot):
        self.released.append(slot)
        del self.tables[slot]

    def row(self, slot, start, tokens, output=SAMPLE, num_drafts=0, shared=()):
        tokens = tuple(tokens)
        table = self.tables[slot]
        new = list(shared)
        while (len(table) + len(new)) * self.page_tokens < start + len(tokens):
            new.append(self.free.pop(0))
        table.extend(new)
        # every KV group has as many pages, and a page has the same number in each
        return Row(slot, start, tokens, (tuple(new),) * len(self.backend.kv_groups), num_drafts, output)

    def step(self, *rows, copies=(), masks=None, logits=False):
        plan = StepPlan(self.number, tuple(self.pending), tuple(rows), tuple(copies), tuple(self.released))
        self.number += 1
        self.pending, self.released = [], []
        ticket = self.backend.submit(plan)
        peeked = self.backend.peek_logits(ticket) if logits else None
        result = self.backend.finish(ticket, masks)
        return (result, peeked) if logits else result

    def prefill(self, slot, tokens, chunks, start=0):
        """Computes tokens in chunks of those sizes (the last takes the rest); (row result, logits) of every chunk."""
        out, at = [], start
        for size in [*chunks, len(tokens)]:
            piece = tokens[at : at + size]
            if piece:
                last = at + len(piece) == len(tokens)
                result, logits = self.step(self.row(slot, at, piece, SAMPLE if last else NO_OUTPUT), logits=True)
                at += len(piece)
                out.append((result.rows[0], logits))
        return out


def logits_of_every_position(driver, slot, tokens):
    """[T, V]: the prompt fed one token a step."""
    out = []
    for position, token in enumerate(tokens):
        if position == 0:
            driver.open(slot, (token,))
        _, logits = driver.step(driver.row(slot, position, (token,)), logits=True)
        out.append(logits[0])
    return np.stack(out)
