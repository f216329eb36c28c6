"""Streams in this process: one answer blocking, then three at once with asyncio.

python examples/streaming.py [MODEL]
"""

from __future__ import annotations

import asyncio
import sys

from penstock import LLM, SamplingParams


async def tell(llm: LLM, prompt: str, params: SamplingParams) -> str:
    """Return the whole text of a prompt, collected while others stream."""
    return prompt + "".join([piece async for piece in llm.astream(prompt, params)])


async def together(llm: LLM, params: SamplingParams) -> None:
    """Print three texts that were generated side by side."""
    prompts = ("The sea", "The mountain", "The town")
    for text in await asyncio.gather(*(tell(llm, prompt, params) for prompt in prompts)):
        print(text)


def main(model: str | None) -> None:
    """Print one streamed text, its figures, and three more."""
    params = SamplingParams(temperature=0.7, max_tokens=40, seed=3)
    with LLM(model) as llm:
        with llm.stream("It was a cold evening", params) as stream:
            for piece in stream:
                print(piece, end="", flush=True)
        print(f"\n[{stream.completion.usage.completion_tokens} tokens, {stream.completion.finish_reason}]")
        asyncio.run(together(llm, params))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
