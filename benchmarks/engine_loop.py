"""Microseconds of the control loop a step, in its own thread: drain, plan, native arguments, commit and the rest.

Engine, scheduler, KV manager and CPU backend are the real ones; the model has one layer of random weights, and what its
forward takes is left out. Times are CPU time of the loop's thread, so that other programs on the machine count little.
The second figure has as many SSE streams connected over HTTP, read by another process, beside it.

    PYTHONPATH=src python benchmarks/engine_loop.py [--rows 1 64 256 1024] [--sse 64] [--json out.json]
        [--page docs/speed.md]

Prints one JSON line a figure: median and p99 of every part. `total` is the sum of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from engine_cpu import random_weights
from record_tables import PARTS, expect_tables, show
from records import write_record

from penstock import api, assemble
from penstock.api.server import ApiServer, bind
from penstock.backend.cpu import CpuBackend, CpuOptions
from penstock.core import EngineConfig, Request, SamplingParams
from penstock.engine import Engine, EngineThread, Garbage, WallClock
from penstock.formats import Storage
from penstock.kv import KvManager
from penstock.model import Attention, DecoderSpec, Layer, Mlp, QkNorm, Rope, open_checkpoint
from penstock.sched import Scheduler

VOCAB, PAGE_TOKENS, OWN_TOKENS = 4096, 32, 32
# Reads and forgets: the body is one JSON object a connection.
CLIENT = """
import selectors, socket, sys
host, port, count, body = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.stdin.read()
wait = selectors.DefaultSelector()
for i in range(count):
    line = body.replace('"OWN"', ",".join([str(i + 10)] * 32)).encode()
    peer = socket.create_connection((host, port))
    peer.sendall(b"POST /v1/completions HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n"
                 b"Content-Type: application/json\\r\\n"
                 b"Content-Length: %d\\r\\n\\r\\n" % len(line) + line)
    wait.register(peer, selectors.EVENT_READ)
while wait.get_map():
    for key, _ in wait.select():
        if not key.fileobj.recv(65536):
            wait.unregister(key.fileobj)
"""


class Text:
    """A decoder as cheap as one can be: what text costs is measured in its own room."""

    def stream(self, skip_special_tokens, after=None):
        return self

    def push(self, tokens):
        return "a"

    def flush(self):
        return ""


class Native:
    """The native decoder with a stopwatch around what computes."""

    def __init__(self, decoder, timed):
        self._decoder = decoder
        self.finish = timed("forward", decoder.finish)

    def __getattr__(self, name):
        return getattr(self._decoder, name)


class Recorder:
    """Seconds of each part of every step that has one decode row for each of `rows` sequences."""

    def __init__(self, engine, scheduler, backend, rows):
        self.steps, self._spent, self._plain, self._rows = [], {}, False, rows
        self._plan = self._timed("plan", scheduler.plan)
        self._check = self._timed("check", self._is_plain)
        backend._decoder = Native(backend._decoder, self._timed)
        engine._drain_inbox = self._timed("drain", engine._drain_inbox)
        scheduler.plan = self._note
        scheduler.commit = self._timed("commit", scheduler.commit)
        backend.submit = self._timed("arguments", backend.submit)
        backend.finish = self._timed("finish", backend.finish)
        self._step, engine.step = self._timed("step", engine.step), self.step

    def _timed(self, name, method):
        def timed(*arguments):
            start = time.thread_time()
            result = method(*arguments)
            self._spent[name] = time.thread_time() - start
            return result

        return timed

    def _note(self, now):
        plan = self._plan(now)
        self._plain = self._check(plan)
        return plan

    def _is_plain(self, plan):
        return plan is not None and len(plan.rows) == self._rows and all(row.num_tokens == 1 for row in plan.rows)

    def step(self, clock):
        self._spent.clear()
        busy = self._step(clock)
        if self._plain:
            spent = dict(self._spent)
            spent["results"] = spent["finish"] - spent["forward"]
            spent["total"] = spent["step"] - spent["forward"] - spent["check"]
            spent["rest"] = spent["total"] - sum(spent[part] for part in PARTS[:5])
            self.steps.append([1e6 * spent[part] for part in PARTS])
        return busy

    def figures(self):
        columns = list(zip(*self.steps[len(self.steps) // 5 :], strict=True))
        return {
            part: {"median_us": round(statistics.median(c), 1), "p99_us": round(sorted(c)[int(0.99 * (len(c) - 1))], 1)}
            for part, c in zip(PARTS, columns, strict=True)
        }


def build(rows, context, steps, text):
    """An engine over a one-layer random model, and what records its steps."""
    total = context + steps + 64
    layer = Layer(Attention(1, 1, 32, 32**-0.5, Rope(theta=1e4, dims=32), qk_norm=QkNorm.HEAD), Mlp(64))
    spec = DecoderSpec("qwen3", 64, VOCAB, (layer,), 1e-6, max_tokens=total, tied_head=True)
    pages = context // PAGE_TOKENS + rows * (-(-(OWN_TOKENS + steps + 64) // PAGE_TOKENS) + 1)
    config = EngineConfig(total, VOCAB, (pages,), max_running=rows, page_tokens=PAGE_TOKENS, max_step_tokens=4096)
    cpu = CpuOptions(max_model_tokens=total, max_running=rows, max_step_tokens=4096, page_tokens=PAGE_TOKENS)
    backend = CpuBackend(spec, random_weights(spec, Storage.BF16, Storage.BF16), cpu)
    backend.allocate((pages,))
    scheduler = Scheduler(config, KvManager(backend.kv_groups, config))
    engine = Engine(config, scheduler, backend, text)
    scheduler._lengths.add(steps)
    return engine, Recorder(engine, scheduler, backend, rows)


def common(context):
    """Most of every prompt is the same, so that it is computed once; its pages are shared."""
    return [i % 997 for i in range(context - OWN_TOKENS)]


def alone(rows, context, steps):
    """The loop without HTTP."""
    engine, recorder = build(rows, context, steps, Text())
    garbage = Garbage(0.0)
    clock, params = WallClock(), SamplingParams(max_tokens=steps + 60, ignore_eos=True, seed=1, temperature=0.0)
    prompts = [(*common(context), *[row + 10] * OWN_TOKENS) for row in range(rows)]
    streams = [engine.submit(Request(f"r{i}", prompt, params), 0.0) for i, prompt in enumerate(prompts)]
    while len(recorder.steps) < steps and not engine.idle:
        engine.step(clock)
        garbage.busy(0.0)
        for stream in streams:
            stream.take()
    engine.close()
    return recorder.figures()


def connected(rows, context, steps):
    """The loop with as many SSE streams over HTTP beside it."""
    tokenizer = assemble.read_tokenizer(open_checkpoint(assemble.BUNDLED))
    engine, recorder = build(rows, context, steps, tokenizer)
    client = EngineThread(engine, WallClock())
    settings = api.ApiSettings(port=0, grace_s=0.1)
    served = api.ServedModel("m", client, tokenizer, context + steps + 64, (), VOCAB)
    listener = bind(settings)
    host, port = listener.getsockname()[:2]
    server = ApiServer(api.create_app({"m": served}, settings), settings, listener, None)
    thread = threading.Thread(target=lambda: asyncio.run(server.run()), daemon=True)
    thread.start()
    body = {"model": "m", "prompt": [*common(context), "OWN"], "max_tokens": steps + 60, "stream": True}
    body |= {"ignore_eos": True, "temperature": 0.0}
    reader = subprocess.Popen([sys.executable, "-c", CLIENT, host, str(port), str(rows)], stdin=subprocess.PIPE)
    reader.stdin.write(json.dumps(body).encode())
    reader.stdin.close()
    try:
        reader.wait(120)
    except subprocess.TimeoutExpired:
        reader.kill()
    server.should_exit = True
    thread.join(10)
    client.close()
    return recorder.figures()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64, 256, 1024])
    parser.add_argument("--sse", type=int, default=64, help="streams of the second figure; 0 leaves it out")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="page whose table of the loop is written anew")
    options = parser.parse_args()
    expect_tables(options.page, "engine_loop")
    records = []
    cases = [(alone, rows) for rows in options.rows] + ([(connected, options.sse)] if options.sse else [])
    for measure, rows in cases:
        record = {"figure": measure.__name__, "rows": rows, "context": options.context, "steps": options.steps}
        record |= measure(rows, options.context, options.steps)
        print(json.dumps(record), flush=True)
        records.append(record)
    record = write_record(options.json, "engine_loop", records, context=options.context, steps=options.steps)
    show(record, options.page)


if __name__ == "__main__":
    main()
