"""Flags that several verbs share, and how they become `LoadOptions`.

Knows nothing about models. Invariant: a flag means the same in every verb.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.core import ConfigError, SamplingParams, check_sampling

if TYPE_CHECKING:
    from penstock.llm import LLM, Completion

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A folder, a .gguf file or a hub id; the bundled model if left out. Also PENSTOCK_MODEL.",
        envvar="PENSTOCK_MODEL",
        show_default=False,
    ),
]
Revision = Annotated[str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of a hub id.")]
MaxModelTokens = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Longest prompt plus output; the model's own, or what fits, if left out."),
]
KvBytes = Annotated[
    str | None, typer.Option(metavar="BYTES", help="KV memory, e.g. 2GB or 512MiB; half of what is free if left out.")
]
KvType = Annotated[
    str, typer.Option(metavar="TYPE", help="KV element type: auto (bf16; f32 for f32 weights), bf16, f32 or int8.")
]
Threads = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Compute threads; the cores of this process if left out.")
]
Numa = Annotated[
    str,
    typer.Option(
        metavar="CHOICE", help="auto: threads and weights by the machine's nodes where there are several; or off."
    ),
]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="auto (a GPU where there is one and PyTorch is installed), cpu or cuda.")
]
FastNondeterministic = Annotated[
    bool,
    typer.Option(
        "--fast-nondeterministic",
        help="On a GPU, the library's own products: a request's tokens may then depend on who else is served.",
    ),
]
PackCache = Annotated[bool, typer.Option(help="Keep repacked weights on disk, so that the next start maps them.")]

# Silence longer than this at a start is explained.
PATIENCE_S = 1.0
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str | None, flag: str) -> int | None:
    """Bytes of "2GB", "512 MiB" or "1000000"; None stays None.

    Raises:
        ConfigError: it is not a size, or is over 2**60.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d{1,19}(?:\.\d{1,9})?)\s*([kmgt]i?)?b?\s*", str(text).lower())
    count = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if not 0 < count < 2**60:
        raise ConfigError(f"{flag} is {text!r}.", param=flag, hint="write a size such as 2GB, 512MiB or 1000000.")
    return count


def check_existing(model: str | None) -> None:
    """Passes unless `model` looks like a path that does not exist: a clearer line than a failed hub look-up.

    Raises:
        ConfigError: naming the path.
    """
    if model is None or Path(model).expanduser().exists():
        return
    inside_repo = model.count("/") >= 2 and model.endswith(".gguf")  # owner/name/file.gguf
    looks_local = model.startswith((".", "/", "~")) or not (inside_repo or model.count("/") == 1)
    looks_local = looks_local or (model.endswith((".gguf", ".safetensors")) and not inside_repo)
    if looks_local:
        raise ConfigError(
            f"no such file or folder: {model}.",
            param="model",
            hint="give a folder, a .gguf file or a hub id: owner/name, owner/name:Q4_K_M or owner/name/file.gguf.",
        )


def tell(line: str) -> None:
    """One line for people, on stderr."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def patience(model: str | None) -> Iterator[None]:
    """Says what is going on when the block takes over a second."""
    line = (
        f"loading {model or 'the bundled model'} … (the first start of a quantized file repacks it, later ones map it)"
    )
    timer = threading.Timer(PATIENCE_S, tell, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def figures(completion: Completion, ttft_s: float, rest_s: float) -> str:
    """One line: tokens, whether a limit ended them, TTFT and tokens a second."""
    count = completion.usage.completion_tokens or len(completion.tokens)
    limit = ", ended by its limit" if completion.finish_reason == "length" else ""
    rate = (count - 1) / rest_s if count > 1 and rest_s > 0 else 0.0
    return f"{count} tokens{limit}, TTFT {ttft_s:.3f} s, {rate:.1f} tok/s"


def open_llm(**choices: Any) -> LLM:
    """The model in this process, for one reader; `choices` are `LoadOptions` fields.

    Raises:
        ModelFileError, ConfigError: as `penstock.LLM` does.
    """
    from penstock.assemble import LoadOptions
    from penstock.llm import LLM

    with patience(choices.get("model")):
        return LLM(options=LoadOptions(**choices))


def override(llm: LLM, **given: Any) -> SamplingParams:
    """The model's default sampling with every given value that is not None in its place.

    Raises:
        InvalidRequest: naming the value that cannot be used.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    params = replace(llm.loaded.checkpoint.generation_defaults, **chosen)
    check_sampling(params, llm.loaded.config.vocab_size)
    return params
