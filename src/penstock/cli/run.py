"""`penstock run`: one completion, streamed to stdout.

Knows nothing about the engine. Invariant: stdout carries the text and nothing else.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from penstock.cli import options
from penstock.cli.pull import fetch


def run(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from stdin.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="A folder, a .gguf file or a hub id; the bundled model if left out."
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Output tokens at most.")] = 128,
    temperature: Annotated[
        float | None, typer.Option(metavar="X", help="0 is greedy; the model's default if left out.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="X", help="Nucleus mass; the model's default if left out.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Repeats a run exactly.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Present the prompt through the chat template.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No figures on stderr.")] = False,
    max_model_tokens: options.MaxModelTokens = None,
    kv_bytes: options.KvBytes = None,
    kv_type: options.KvType = "auto",
    device: options.Device = "auto",
    fast_nondeterministic: options.FastNondeterministic = False,
    threads: options.Threads = None,
    numa: options.Numa = "auto",
    pack_cache: options.PackCache = True,
    revision: options.Revision = None,
) -> None:
    """Stream one completion to stdout."""
    options.check_existing(model)
    fetch(model, revision)
    text = sys.stdin.read() if prompt == "-" else prompt
    with options.open_llm(
        model=model,
        revision=revision,
        max_model_tokens=max_model_tokens,
        kv_bytes=options.parse_bytes(kv_bytes, "--kv-bytes"),
        kv_type=kv_type,
        device=device,
        fast_nondeterministic=fast_nondeterministic,
        threads=threads,
        numa=numa,
        pack_cache=pack_cache,
    ) as llm:
        params = options.override(llm, temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens)
        started = time.perf_counter()
        first = 0.0
        with llm.stream([{"role": "user", "content": text}] if chat else text, params) as stream:
            for piece in stream:
                first = first or time.perf_counter()
                sys.stdout.write(piece)
                sys.stdout.flush()
        ended = time.perf_counter()
        sys.stdout.write("\n")
        sys.stdout.flush()
        if not quiet:
            first = first or ended
            options.tell(options.figures(stream.completion, first - started, ended - first))
