"""penstock: the engine with its scheduler and streams in process, prefix cache off; only HTTP is left out."""

from __future__ import annotations

import asyncio
import time
from itertools import count

from benchmarks.peers.protocol import Choices, Times, serve

from penstock import SamplingParams, __version__
from penstock.assemble import LoadedModel, LoadOptions, load
from penstock.core import ports

STEP_TOKENS = 2048
SPARE_STEPS = 2


class Penstock:
    """Drives an `EngineThread` as the server does."""

    def load(self, choices: Choices) -> str:
        options = LoadOptions(
            model=choices.model,
            max_model_tokens=choices.max_tokens,
            kv_bytes=choices.total_tokens * choices.options["kv_bytes_a_token"],
            prefix_cache=False,
            max_running=choices.max_streams,
            max_step_tokens=STEP_TOKENS,
            threads=choices.threads,
        )
        self._model: LoadedModel = load(options)
        self._ids = count()
        return f"{__version__}, tier {self._model.tier}, {self._model.kv_type} KV, whole engine"

    def run(self, prompts: list[list[int]], new_tokens: int, variant: str) -> Times:
        # Sequences that were read first decode while the rest is read: so many steps more are asked for.
        spare = sum(map(len, prompts)) // STEP_TOKENS + SPARE_STEPS if len(prompts) > 1 else 0
        return asyncio.run(self._all(prompts, new_tokens + spare))

    async def _all(self, prompts: list[list[int]], new_tokens: int) -> Times:
        start = time.perf_counter()
        params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        streams = [self._submit(ids, params) for ids in prompts]
        return start, list(await asyncio.gather(*map(self._times, streams)))

    def _submit(self, ids: list[int], params: SamplingParams) -> ports.Stream:
        return self._model.client.submit(self._model.request(f"r{next(self._ids)}", tuple(ids), params))

    async def _times(self, stream: ports.Stream) -> list[float]:
        times = []
        async for events in stream:
            now = time.perf_counter()
            for event in events:
                if event.error is not None:
                    raise event.error
                times.extend([now] * len(event.tokens))
        return times

    def generate(self, prompt: list[int], count: int) -> list[int]:
        params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
        return [token for events in self._submit(prompt, params) for event in events for token in event.tokens]


if __name__ == "__main__":
    serve(Penstock())
