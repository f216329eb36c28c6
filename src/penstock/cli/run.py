"""`penstock run`: one completion, streamed to stdout.

Knows nothing about the engine. Invariant: stdout carries the text and nothing else.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from penstock.cli import options


def run(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from stdin.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A folder, a .gguf file or a hub id; the bundled model if left out."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Output tokens at most.")] = 128,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; the model's default if left out.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus mass; the model's default if left out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats a run exactly.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Present the prompt through the chat template.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No figures on stderr.")] = False,
    max_model_tokens: options.MaxModelTokens = None,
    kv_bytes: options.KvBytes = None,
    kv_type: options.KvType = "auto",
    threads: options.Threads = None,
    pack_cache: options.PackCache = True,
    revision: options.Revision = None,
) -> None:
    """Stream one completion to stdout."""
    options.check_existing(model)
    text = sys.stdin.read() if prompt == "-" else prompt
    with options.open_llm(
        model=model,
        revision=revision,
        max_model_tokens=max_model_tokens,
        kv_bytes=options.parse_bytes(kv_bytes, "--kv-bytes"),
        kv_type=kv_type,
        threads=threads,
        pack_cache=pack_cache,
    ) as llm:
        params = options.override(llm, temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens)
        started = time.perf_counter()
        first = 0.0
        for piece in llm.stream([{"role": "user", "content": text}] if chat else text, params):
            first = first or time.perf_counter()
            sys.stdout.write(piece)
            sys.stdout.flush()
        ended = time.perf_counter()
        sys.stdout.write("\n")
        sys.stdout.flush()
        if not quiet:
            count = llm.loaded.client.snapshot().output_tokens
            rate = (count - 1) / (ended - first) if count > 1 and ended > first else 0.0
            print(
                f"{count} tokens, TTFT {(first or ended) - started:.3f} s, {rate:.1f} tok/s",
                file=sys.stderr,
                flush=True,
            )
