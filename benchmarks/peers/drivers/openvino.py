"""OpenVINO GenAI: `LLMPipeline` for one stream, or its `ContinuousBatchingPipeline`, as the option "pipeline" says."""

from __future__ import annotations

import time

import numpy as np
import openvino
import openvino_genai as genai
from benchmarks.peers.protocol import Choices, Times, serve

KV_TOKEN_BYTES = 28 * 2 * 8 * 128 * 2  # of the checkpoint's shape at two bytes a value; its own default is one
GIB = 1 << 30
SPARE = 1.25  # blocks are not shared between streams, and their last ones stay part empty


def config(new_tokens: int) -> genai.GenerationConfig:
    """Greedy, exactly so many tokens."""
    chosen = genai.GenerationConfig()
    chosen.max_new_tokens = chosen.min_new_tokens = new_tokens
    chosen.do_sample, chosen.ignore_eos = False, True
    return chosen


class Noted(genai.StreamerBase):
    """Notes when tokens come, and which."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        self.tokens: list[int] = []

    def write(self, token: int | list[int]) -> genai.StreamingStatus:
        found = token if isinstance(token, list) else [token]
        self.times.extend([time.perf_counter()] * len(found))
        self.tokens.extend(found)
        return genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Nothing is kept back."""


def tensor(ids: list[int]) -> openvino.Tensor:
    """Ids as both pipelines take them.  # [1, T] i64."""
    return openvino.Tensor(np.array([ids], dtype=np.int64))


class Alone:
    """The pipeline for one stream at a time."""

    def __init__(self, choices: Choices, properties: dict[str, object]) -> None:
        self._pipeline = genai.LLMPipeline(choices.model, "CPU", ATTENTION_BACKEND="SDPA", **properties)

    def all(self, prompts: list[list[int]], new_tokens: int) -> tuple[list[list[float]], list[list[int]]]:
        if len(prompts) > 1:
            raise ValueError("LLMPipeline is measured with one stream; its batching pipeline takes more.")
        seen = Noted()
        self._pipeline.generate(tensor(prompts[0]), config(new_tokens), seen)
        return [seen.times], [seen.tokens]


class Batching:
    """The continuous batching pipeline, stepped here."""

    def __init__(self, choices: Choices, properties: dict[str, object]) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = int(choices.total_tokens * SPARE * KV_TOKEN_BYTES / GIB) + 1
        scheduler.max_num_seqs, scheduler.enable_prefix_caching = choices.max_streams, False
        self._pipeline = genai.ContinuousBatchingPipeline(choices.model, scheduler, "CPU", properties)
        self._number = 0

    def all(self, prompts: list[list[int]], new_tokens: int) -> tuple[list[list[float]], list[list[int]]]:
        spare = sum(map(len, prompts)) // 256 + 2 if len(prompts) > 1 else 0  # it reads 256 tokens a step by default
        handles = []
        for ids in prompts:
            self._number += 1
            handles.append(self._pipeline.add_request(self._number, tensor(ids), config(new_tokens + spare)))
        times: list[list[float]] = [[] for _ in prompts]
        tokens: list[list[int]] = [[] for _ in prompts]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            now = time.perf_counter()
            for handle, each, ids in zip(handles, times, tokens, strict=True):
                while handle.can_read():
                    for output in handle.read().values():
                        ids.extend(output.generated_ids)
                        each.extend([now] * len(output.generated_ids))
        return times, tokens


class OpenVino:
    """Drives one of the pipelines."""

    def load(self, choices: Choices) -> str:
        kind = {"llm": Alone, "batching": Batching}[choices.options["pipeline"]]
        self._pipeline = kind(choices, {"INFERENCE_NUM_THREADS": choices.threads})
        return f"openvino-genai {genai.__version__}, its default KV type (u8), {choices.options['pipeline']} pipeline"

    def run(self, prompts: list[list[int]], new_tokens: int, variant: str) -> Times:
        start = time.perf_counter()
        return start, self._pipeline.all(prompts, new_tokens)[0]

    def generate(self, prompt: list[int], count: int) -> list[int]:
        return self._pipeline.all([prompt], count)[1][0][:count]


if __name__ == "__main__":
    serve(OpenVino())
