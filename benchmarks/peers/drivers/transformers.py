"""transformers: `generate` on a batch of prompts of equal length, weights in the format's float type."""

from __future__ import annotations

import time

import torch
import transformers
from benchmarks.peers.protocol import Choices, Times, serve

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class Transformers:
    """Drives a causal language model in eager PyTorch."""

    def load(self, choices: Choices) -> str:
        torch.set_num_threads(choices.threads)
        transformers.logging.set_verbosity_error()
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            choices.model, dtype=TYPES[choices.format], local_files_only=True
        ).eval()
        return f"{transformers.__version__}, torch {torch.__version__}, KV as the weights, generate"

    def _generate(self, prompts: list[list[int]], new_tokens: int) -> tuple[list[list[int]], list[float]]:
        times: list[float] = []

        def note(ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
            times.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

        ids = torch.tensor(prompts)
        with torch.inference_mode():
            found = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                stopping_criteria=transformers.StoppingCriteriaList([note]),
            )
        return found[:, ids.shape[1] :].tolist(), times

    def run(self, prompts: list[list[int]], new_tokens: int, variant: str) -> Times:
        start = time.perf_counter()
        return start, [self._generate(prompts, new_tokens)[1]] * len(prompts)

    def generate(self, prompt: list[int], count: int) -> list[int]:
        return self._generate([prompt], count)[0][0]


if __name__ == "__main__":
    serve(Transformers())
