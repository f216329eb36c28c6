"""The library: a model in this process, blocking or async, with the server's own engine underneath.

Knows nothing about HTTP. Invariant: every sample that was asked for comes back, or the call raises; nothing is cut in
silence (a sample that met a limit says finish_reason "length").
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from penstock.assemble import LoadedModel, LoadOptions, load
from penstock.core import Event, Finish, InvalidRequest, Request, SamplingParams, TokenLogprobs, Usage

Prompt = str | Sequence[int]
Message = Mapping[str, Any]
T = TypeVar("T")

# Requests in flight at once: enough to fill any batch, few enough that no reader's stream waits unread.
WINDOW = 512


@dataclass(slots=True)
class Sample:
    """One sample of a completion.

    Attributes:
        text: without the stop string, unless it was asked for.
        tokens: output token ids.
        finish_reason: "stop" or "length".
        stop: the stop string or stop token that matched, or None.
        logprobs: one entry a token where they were asked for.
        usage: token counts of this sample.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish_reason: str = ""
    stop: str | int | None = None
    logprobs: list[TokenLogprobs] | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0, 0))

    def add(self, event: Event) -> None:
        """Takes one event's deltas in."""
        self.text += event.text
        self.tokens.extend(event.tokens)
        if event.logprobs is not None:
            self.logprobs = (self.logprobs or []) + list(event.logprobs)
        if event.finish is not None:
            self._finish(event.finish)

    def _finish(self, finish: Finish) -> None:
        self.finish_reason = finish.reason.value
        self.stop = finish.stop
        self.usage = finish.usage


@dataclass(slots=True)
class Completion:
    """What one prompt brought: `n` samples; `text`, `tokens`, `finish_reason` and `usage` are the first one's.

    Attributes:
        prompt_tokens: ids that the model saw.
        samples: in order of their index.
        seed: the seed that was used; the same request with it gives the same tokens.
        prompt_logprobs: one entry a prompt token (the first None) where they were asked for.
    """

    prompt_tokens: tuple[int, ...]
    samples: list[Sample]
    seed: int
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None

    @property
    def text(self) -> str:
        """The first sample's text."""
        return self.samples[0].text

    @property
    def tokens(self) -> list[int]:
        """The first sample's token ids."""
        return self.samples[0].tokens

    @property
    def finish_reason(self) -> str:
        """Why the first sample ended: "stop" or "length"."""
        return self.samples[0].finish_reason

    @property
    def usage(self) -> Usage:
        """The first sample's token counts."""
        return self.samples[0].usage


class LLM:
    """A model in this process.

    Args:
        model: a local folder, a .gguf file, a hub id, or None for the bundled model.
        options: everything else (`penstock.LoadOptions`): KV bytes and type, context, threads, ….
        max_model_tokens: longest prompt plus output; the model's own, or what fits, if None.
        kv_bytes: bytes of KV; chosen from free memory if None.
        threads: compute threads; the cores that this process may use if None.

    Raises:
        ModelFileError: the checkpoint is missing, corrupt or of an unknown kind.
        ConfigError: a setting cannot be used.

    The engine's thread and memory are freed by `close()`, or by leaving a `with` block.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        options: LoadOptions | None = None,
        max_model_tokens: int | None = None,
        kv_bytes: int | None = None,
        threads: int | None = None,
    ) -> None:
        asked: dict[str, Any] = {
            "model": None if model is None else str(model),
            "max_model_tokens": max_model_tokens,
            "kv_bytes": kv_bytes,
            "threads": threads,
        }
        base = options or LoadOptions()
        fields = {name: getattr(base, name) for name in LoadOptions.__slots__}
        fields.update({name: value for name, value in asked.items() if value is not None})
        self._loaded: LoadedModel = load(LoadOptions(**fields))

    @property
    def loaded(self) -> LoadedModel:
        """The parts: checkpoint, tokenizer, engine client, resolved configuration."""
        return self._loaded

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool = False,
    ) -> list[Completion]:
        """One completion a prompt, in the prompts' order; all of them batched continuously.

        Args:
            prompts: a text, token ids, or a list of either.
            params: one for all or one a prompt; the model's own defaults if None.
            progress: draws a progress bar on stderr.

        Raises:
            InvalidRequest: a parameter or a length cannot be served; nothing was started.
            EngineUnavailable: the engine died.
        """
        return _blocking(lambda: self.agenerate(prompts, params, progress=progress))

    def chat(self, messages: Sequence[Message], params: SamplingParams | None = None, **template: Any) -> Completion:
        """The assistant's answer to a conversation of {"role", "content"} messages.

        Args:
            messages: the conversation.
            params: the model's own defaults if None.
            template: chat template arguments such as enable_thinking=False.

        Raises:
            InvalidRequest: also when the model has no chat template.
        """
        return _blocking(lambda: self.achat(messages, params, **template))

    def stream(self, prompt: Prompt | Sequence[Message], params: SamplingParams | None = None) -> Iterator[str]:
        """Pieces of the first sample's text as they come (messages are a chat); closing the iterator cancels."""
        request = self._request(self._prompt_or_chat(prompt), params)
        done = False
        try:
            for events in self._loaded.client.submit(request):
                for event in events:
                    if event.error is not None:
                        raise event.error
                    if event.sample == 0 and event.text:
                        yield event.text
            done = True
        finally:
            if not done:
                self._loaded.client.cancel(request.id)

    async def agenerate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool = False,
    ) -> list[Completion]:
        """The same as `generate`, awaitable."""
        listed = _listed(prompts)
        each = self._params(params, len(listed))
        requests = [self._request(self._tokens(prompt), one) for prompt, one in zip(listed, each, strict=True)]
        gate = asyncio.Semaphore(WINDOW)

        async def one(request: Request) -> Completion:
            async with gate:
                return await self._collect(request)

        return await _gather([one(request) for request in requests], progress)

    async def achat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, **template: Any
    ) -> Completion:
        """The same as `chat`, awaitable."""
        tokens = self._loaded.tokenizer.encode_chat(list(messages), kwargs=template)
        return await self._collect(self._request(tokens, params))

    async def astream(
        self, prompt: Prompt | Sequence[Message], params: SamplingParams | None = None
    ) -> AsyncIterator[str]:
        """The same as `stream`, for `async for`."""
        request = self._request(self._prompt_or_chat(prompt), params)
        done = False
        try:
            async for events in self._loaded.client.submit(request):
                for event in events:
                    if event.error is not None:
                        raise event.error
                    if event.sample == 0 and event.text:
                        yield event.text
            done = True
        finally:
            if not done:
                self._loaded.client.cancel(request.id)

    def close(self) -> None:
        """Ends what runs and frees the engine's thread and memory; the object is not used again."""
        self._loaded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _request(self, tokens: Sequence[int], params: SamplingParams | None) -> Request:
        return self._loaded.request(f"lib-{secrets.token_hex(8)}", tuple(tokens), params)

    def _tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return self._loaded.tokenizer.encode(prompt)
        return tuple(prompt)

    def _prompt_or_chat(self, prompt: Prompt | Sequence[Message]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return self._tokens(prompt)
        messages = [item for item in prompt if isinstance(item, Mapping)]
        if messages:
            return self._loaded.tokenizer.encode_chat(messages)
        return tuple(item for item in prompt if isinstance(item, int))

    def _params(
        self, params: SamplingParams | Sequence[SamplingParams] | None, count: int
    ) -> Sequence[SamplingParams | None]:
        if params is None or isinstance(params, SamplingParams):
            return [params] * count
        if len(params) != count:
            raise InvalidRequest(
                f"{len(params)} sampling parameters for {count} prompts.",
                param="params",
                hint="give one for all, or one a prompt.",
            )
        return params

    async def _collect(self, request: Request) -> Completion:
        found = Completion(
            request.prompt_tokens, [Sample() for _ in range(request.sampling.n)], request.sampling.seed or 0
        )
        done = False
        try:
            async for events in self._loaded.client.submit(request):
                for event in events:
                    if event.error is not None:
                        raise event.error
                    found.samples[event.sample].add(event)
                    if event.prompt_logprobs is not None:
                        found.prompt_logprobs = event.prompt_logprobs
            done = True
        finally:
            if not done:
                self._loaded.client.cancel(request.id)
        return found


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    if prompts and all(isinstance(item, int) for item in prompts):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _blocking(make: Callable[[], Awaitable[T]]) -> T:
    """The awaitable's result, from a thread of its own: works inside a running loop (a notebook) too."""

    async def run() -> T:
        return await make()

    with ThreadPoolExecutor(1, thread_name_prefix="penstock-llm") as pool:
        runner = asyncio.Runner()
        future = pool.submit(runner.run, run())
        try:
            return future.result()
        except KeyboardInterrupt:
            loop = runner.get_loop()
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
            raise
        finally:
            pool.submit(runner.close)


async def _gather(work: list[Awaitable[Completion]], progress: bool) -> list[Completion]:
    """All results in order; the first failure cancels the rest."""
    columns = (TextColumn("generate"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress, transient=True) as bar:
        task = bar.add_task("generate", total=len(work))

        async def counted(one: Awaitable[Completion]) -> Completion:
            result = await one
            bar.advance(task)
            return result

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(counted(one)) for one in work]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
