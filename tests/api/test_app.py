"""The whole control plane behind HTTP: the real engine, scheduler and KV manager over a backend that costs nothing."""

from __future__ import annotations

import asyncio
import codecs
import time

import openai
import pytest

from penstock.core import EngineConfig, KvGroup
from penstock.engine import Engine, EngineThread, WallClock
from penstock.kv import KvManager
from penstock.sched import Scheduler
from penstock.sim import CostBackend, Costs, VirtualClock


class ByteText:
    """Stream decoders of ids that are bytes."""

    def stream(self, skip_special_tokens=True, after=None):
        return ByteStream()


class ByteStream:
    def __init__(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, tokens):
        return self.decoder.decode(bytes(token & 127 for token in tokens))

    def flush(self):
        return self.decoder.decode(b"", final=True)


@pytest.fixture
def real(start_server):
    groups = (KvGroup("full", (0,), 1024),)
    config = EngineConfig(max_model_tokens=400, vocab_size=258, pages=(64,), page_tokens=8, max_running=16)
    backend = CostBackend(groups, 8, Costs(1e6, 1e6, 1e12, 1e12), VirtualClock(), 258)
    backend.allocate((64,))
    client = EngineThread(
        Engine(config, Scheduler(config, KvManager(groups, config)), backend, ByteText()), WallClock()
    )
    yield start_server(client)
    client.close()


def test_streams_under_pressure_equal_whole_answers_and_leave_nothing_behind(real):
    given = {"model": "toy", "max_tokens": 60, "temperature": 1.0, "extra_body": {"ignore_eos": True}}

    async def whole(client, k):
        answer = await client.completions.create(prompt=f"prompt {k}", seed=k, **given)
        assert answer.usage.completion_tokens == 60
        return answer.choices[0].text

    async def streamed(client, k):
        stream = await client.completions.create(prompt=f"prompt {k}", seed=k, stream=True, **given)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def gone(client, k):
        stream = await client.completions.create(prompt=f"gone {k}", seed=k, stream=True, **given)
        async for _ in stream:
            await stream.close()
            break

    async def main():
        async with openai.AsyncOpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0) as client:
            jobs = [one(client, k) for k in range(12) for one in (whole, streamed, gone)]
            return await asyncio.gather(*jobs)

    done = asyncio.run(main())
    assert all(done[k] == done[k + 1] and len(done[k]) > 0 for k in range(0, 36, 3))
    deadline = time.monotonic() + 2
    while real.engine.snapshot().pages_held and time.monotonic() < deadline:
        time.sleep(0.01)
    left = real.engine.snapshot()
    assert (left.pages_held, left.num_running, left.num_waiting) == (0, 0, 0)
    assert left.pages_free + left.pages_cached == left.pages_total


def test_what_can_never_fit_is_refused_and_the_seed_is_told(real):
    assert real.complete(prompt="x" * 500).json()["error"]["code"] == "context_length_exceeded"
    assert real.complete(seed=11).json()["seed"] == 11
    assert real.get("/health/ready").status_code == 200
    assert "vllm:num_requests_running" in real.get("/metrics").text
