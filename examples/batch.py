"""Completes many prompts in this process: all of them share every step, and come back in order.

python examples/batch.py [MODEL]
"""

from __future__ import annotations

import sys

from penstock import LLM, SamplingParams


def main(model: str | None) -> None:
    """Print the first few of 200 completions."""
    prompts = [f"Chapter {number}. It was" for number in range(1, 201)]
    params = SamplingParams(temperature=0.8, max_tokens=24, seed=11)
    with LLM(model) as llm:
        completions = llm.generate(prompts, params, progress=True)
    for prompt, completion in list(zip(prompts, completions, strict=True))[:3]:
        print(f"{prompt}{completion.text!r} ({completion.finish_reason}, {completion.usage.completion_tokens} tokens)")
    print(f"{sum(len(completion.tokens) for completion in completions)} tokens for {len(completions)} prompts")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
