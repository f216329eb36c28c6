"""`penstock chat`: a conversation in the terminal, with history, /reset and /stats.

Knows nothing about the engine. Invariant: an answer that is interrupted stays in the history as far as it came.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import options

if TYPE_CHECKING:
    from penstock.core import SamplingParams
    from penstock.llm import LLM

HELP = "/reset forgets the conversation, /stats shows figures, /exit or Ctrl-D leaves; Ctrl-C stops an answer."


def chat(
    model: options.Model = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one answer at most.")] = 512,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; the model's default if left out.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats a conversation exactly.")] = None,
    max_model_tokens: options.MaxModelTokens = None,
    kv_bytes: options.KvBytes = None,
    kv_type: options.KvType = "auto",
    threads: options.Threads = None,
    pack_cache: options.PackCache = True,
    revision: options.Revision = None,
) -> None:
    """Chat with a model in the terminal."""
    options.check_existing(model)
    with options.open_llm(
        model=model,
        revision=revision,
        max_model_tokens=max_model_tokens,
        kv_bytes=options.parse_bytes(kv_bytes, "--kv-bytes"),
        kv_type=kv_type,
        threads=threads,
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

    def loop(self) -> None:
        """Reads lines until /exit or the end of the input."""
        tell(f"{self._llm.loaded.name}. {HELP}")
        prompt = "> " if sys.stdin.isatty() else ""
        _enable_history()
        while True:
            try:
                line = input(prompt)
            except EOFError:
                tell("")
                return
            except KeyboardInterrupt:
                tell("")
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
        from penstock.core import PenstockError

        self._messages.append({"role": "user", "content": line})
        pieces: list[str] = []
        before = self._llm.loaded.client.snapshot().output_tokens
        started, first = time.perf_counter(), 0.0
        try:
            for piece in self._llm.stream(self._messages, self._params):
                first = first or time.perf_counter()
                pieces.append(piece)
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            tell(" [stopped]")
        except PenstockError as error:
            self._messages.pop()
            tell(f"error: {error}")
            return
        sys.stdout.write("\n")
        sys.stdout.flush()
        self._messages.append({"role": "assistant", "content": "".join(pieces)})
        ended, count = time.perf_counter(), self._llm.loaded.client.snapshot().output_tokens - before
        rate = (count - 1) / (ended - first) if count > 1 and ended > first else 0.0
        self._last = f"{count} tokens, TTFT {(first or ended) - started:.3f} s, {rate:.1f} tok/s"


def _enable_history() -> None:
    """Line editing and an up-arrow history where the platform has them."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return


def tell(line: str) -> None:
    """One line for people."""
    print(line, file=sys.stderr, flush=True)
