"""`penstock chat`: a conversation in the terminal, with history, /reset and /stats.

Knows nothing about the engine. Invariant: an answer that is interrupted stays in the history as far as it came.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import options
from penstock.cli.options import tell
from penstock.cli.pull import fetch
from penstock.core import ContextLengthExceeded, InvalidRequest

if TYPE_CHECKING:
    from penstock.core import SamplingParams
    from penstock.llm import LLM

HELP = "/reset forgets the conversation, /stats shows figures, /exit or Ctrl-D leaves; Ctrl-C stops an answer."


def chat(
    model: options.Model = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System message.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Tokens of one answer at most; what the context leaves if left out."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="X", help="0 is greedy; the model's default if left out.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Repeats a conversation exactly.")] = None,
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
    """Chat with a model in the terminal."""
    options.check_existing(model)
    fetch(model, revision)
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
        params = options.override(llm, temperature=temperature, seed=seed, max_tokens=max_tokens)
        Conversation(llm, params, system).loop()


class Conversation:
    """The history and its figures."""

    def __init__(self, llm: LLM, params: SamplingParams, system: str | None) -> None:
        self._llm = llm
        self._params = params
        self._start: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._start)
        self._last = ""

    @property
    def history(self) -> tuple[dict[str, Any], ...]:
        """The messages so far, the system's included."""
        return tuple(self._messages)

    def loop(self) -> None:
        """Reads lines until /exit or the end of the input."""
        tell(f"{self._llm.loaded.name}, {self._llm.loaded.config.max_model_tokens:,} tokens of context. {HELP}")
        prompt = "> " if sys.stdin.isatty() else ""
        _enable_history()
        while True:
            try:
                line = input(prompt)
            except EOFError:
                tell("")
                return
            except KeyboardInterrupt:
                tell(" (/exit or Ctrl-D leaves)")
                continue
            if line.strip() == "/exit":
                return
            if line.strip():
                self.take(line)

    def take(self, line: str) -> None:
        """Does what one line asks: a command, or a turn of the conversation."""
        command = line.strip()
        if command == "/reset":
            self._messages = list(self._start)
            tell("the conversation starts anew.")
        elif command == "/stats":
            tell(self.stats())
        elif command.startswith("/"):
            tell(HELP)
        else:
            self._turn(line)

    def stats(self) -> str:
        """One line of figures."""
        state = self._llm.loaded.client.snapshot()
        hits = state.prefix_hits_tokens / max(1, state.prefix_queries_tokens)
        turns = sum(message["role"] == "user" for message in self._messages)
        return f"{turns} turns, {state.output_tokens} tokens out, prefix hits {hits:.0%}; last: {self._last or 'none'}"

    def _turn(self, line: str) -> None:
        """Asks and shows the answer; what failed is said and leaves no trace in the history."""
        self._messages.append({"role": "user", "content": line})
        started, first, stream = time.perf_counter(), 0.0, None
        try:
            with self._llm.stream(self._messages, self._params) as stream:
                for piece in stream:
                    first = first or time.perf_counter()
                    sys.stdout.write(piece)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            tell(" [stopped]")
        except ContextLengthExceeded as error:
            self._messages.pop()
            tell(f"error: the conversation is full: {error.message} hint: /reset starts anew.")
            return
        except InvalidRequest as error:
            self._messages.pop()
            tell(f"error: {error}")
            return
        if stream is None:
            self._messages.pop()
            return
        sys.stdout.write("\n")
        sys.stdout.flush()
        ended = time.perf_counter()
        first = first or ended
        self._messages.append({"role": "assistant", "content": stream.completion.text})
        self._last = options.figures(stream.completion, first - started, ended - first)
        if stream.completion.finish_reason == "length":
            tell("[the answer was ended by its limit; /stats has figures, /reset frees the context]")


def _enable_history() -> None:
    """Line editing and an up-arrow history where the platform has them."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return
