"""Holds a conversation in this process: the history is a list of messages that grows by each answer.

python examples/chat.py [MODEL]
"""

from __future__ import annotations

import sys

from penstock import LLM, SamplingParams


def main(model: str | None) -> None:
    """Print a conversation of two turns."""
    params = SamplingParams(temperature=0.7, max_tokens=40, seed=5)
    messages: list[dict[str, str]] = []
    with LLM(model) as llm:
        for question in ("Tell me about the sea.", "And what lies beyond it?"):
            messages.append({"role": "user", "content": question})
            answer = llm.chat(messages, params)
            messages.append({"role": "assistant", "content": answer.text})
            print(f"> {question}\n{answer.text.strip()}")
            print(f"[{answer.usage.cached_tokens} of {len(answer.prompt_tokens)} prompt tokens cached]")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
