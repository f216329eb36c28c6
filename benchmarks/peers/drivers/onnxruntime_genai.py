"""onnxruntime-genai: one generator over a batch of prompts of equal length."""

from __future__ import annotations

import json
import time

import numpy as np
import onnxruntime_genai as og
from benchmarks.peers.protocol import Choices, Times, serve


class OnnxRuntimeGenAi:
    """Drives `Generator` step by step."""

    def load(self, choices: Choices) -> str:
        config = og.Config(choices.model)
        session = {"session_options": {"intra_op_num_threads": choices.threads, "inter_op_num_threads": 1}}
        config.overlay(json.dumps({"model": {"decoder": session}}))
        self._model = og.Model(config)
        return f"{og.__version__}, f32 KV, Generator"

    def _generator(self, prompts: list[list[int]], new_tokens: int) -> og.Generator:
        params = og.GeneratorParams(self._model)
        length = len(prompts[0]) + new_tokens
        params.set_search_options(max_length=length, min_length=length, batch_size=len(prompts), do_sample=False)
        return og.Generator(self._model, params)

    def run(self, prompts: list[list[int]], new_tokens: int, variant: str) -> Times:
        generator = self._generator(prompts, new_tokens)
        start = time.perf_counter()
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        times = []
        for _ in range(new_tokens):
            generator.generate_next_token()
            times.append(time.perf_counter())
        return start, [times] * len(prompts)

    def generate(self, prompt: list[int], count: int) -> list[int]:
        generator = self._generator([prompt], count)
        generator.append_tokens(np.array([prompt], dtype=np.int32))
        for _ in range(count):
            generator.generate_next_token()
        return [int(token) for token in generator.get_sequence(0)[len(prompt) :]]


if __name__ == "__main__":
    serve(OnnxRuntimeGenAi())
