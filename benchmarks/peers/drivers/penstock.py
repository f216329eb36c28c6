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
SPARE_STEPS = 64  # as many as `works.py` leaves room for


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
        return asyncio.run(self._all(prompts, new_tokens))

    async def _all(self, prompts: list[list[int]], new_tokens: int) -> Times:
        # Sequences that were read first decode while the rest is read: all go on until the last has its tokens.
        spare = SPARE_STEPS if len(prompts) > 1 else 0
        params = SamplingParams(temperature=0.0, max_tokens=new_tokens + spare, ignore_eos=True)
        names = [f"r{next(self._ids)}" for _ in prompts]
        missing = set(names)
        start = time.perf_counter()
        streams = [self._submit(name, ids, params) for name, ids in zip(names, prompts, strict=True)]

        async def read(name: str, stream: ports.Stream) -> list[float]:
            times: list[float] = []
            async for events in stream:
                now = time.perf_counter()
                for event in events:
                    if event.error is not None:
                        raise event.error
                    times.extend([now] * len(event.tokens))
                if len(times) >= new_tokens and name in missing:
                    missing.discard(name)
                    if not missing:
                        for each in names:
                            self._model.client.cancel(each)
            return times

        return start, list(await asyncio.gather(*map(read, names, streams)))

    def _submit(self, name: str, ids: list[int], params: SamplingParams) -> ports.Stream:
        return self._model.client.submit(self._model.request(name, tuple(ids), params))

    def generate(self, prompt: list[int], count: int) -> list[int]:
        params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
        stream = self._submit(f"r{next(self._ids)}", prompt, params)
        return [token for events in stream for event in events for token in event.tokens]


if __name__ == "__main__":
    serve(Penstock())
