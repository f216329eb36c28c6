"""Asks a running server through the official `openai` client: one whole answer, then one streamed.

    penstock serve                      # in another terminal
    python examples/openai_client.py [http://127.0.0.1:8000]

Needs `pip install openai`.
"""

from __future__ import annotations

import sys

from openai import OpenAI


def main(server: str) -> None:
    """Print two completions of the server's first model."""
    client = OpenAI(base_url=f"{server}/v1", api_key="unused")
    model = client.models.list().data[0].id

    whole = client.completions.create(model=model, prompt="The old house stood", max_tokens=32, seed=7)
    print(f"{model}: The old house stood{whole.choices[0].text}\n")

    stream = client.completions.create(model=model, prompt="The sea was calm", max_tokens=32, seed=7, stream=True)
    print("The sea was calm", end="")
    for chunk in stream:
        print(chunk.choices[0].text, end="", flush=True)
    print()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
