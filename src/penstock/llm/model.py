"""The library: a model in this process, blocking or async, with the server's own engine underneath.

Knows nothing about HTTP. Invariant: every sample that was asked for comes back, or the call raises; nothing is cut in
silence (a sample that met a limit says finish_reason "length").
"""

from __future__ import annotations

import asyncio
import operator
import secrets
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from penstock.assemble import LoadedModel, LoadOptions, load
from penstock.core import EngineUnavailable, InvalidRequest, QueueFull, Request, SamplingParams
from penstock.llm.batch import blocking, gather
from penstock.llm.completion import Completion, TextStream, empty_completion

Prompt = str | Sequence[int]
Message = Mapping[str, Any]

# Requests in flight at once: enough to fill any batch, few enough that no reader's stream waits unread.
WINDOW = 512
# How long a batch waits before it asks again for a place in a full queue.
RETRY_S = 0.05


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

    The engine's thread and memory are freed by `close()`, by leaving a `with` or `async with` block, or with the
    object itself.
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
        self._close = weakref.finalize(self, self._loaded.close)

    @property
    def loaded(self) -> LoadedModel:
        """The parts: checkpoint, tokenizer, engine client, resolved configuration.

        Raises:
            EngineUnavailable: the object was closed.
        """
        if not self._close.alive:
            raise EngineUnavailable("this LLM was closed.", hint="make a new one, or close it later.")
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
            InvalidRequest: a parameter or a length cannot be served.
            EngineUnavailable: the engine died, or the object was closed.

        Whatever is raised, KeyboardInterrupt included, the requests that still ran are cancelled.
        """
        return blocking(lambda: self.agenerate(prompts, params, progress=progress))

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Message] | None = None,
        continue_final_message: bool = False,
        **template: Any,
    ) -> Completion:
        """The assistant's answer to a conversation of {"role", "content"} messages.

        Args:
            messages: the conversation; calls, their results and reasoning as in the HTTP API.
            params: the model's own defaults if None.
            tools: functions that the model is told of; a call that it writes is text of its answer.
            continue_final_message: go on with the last message, which is the assistant's.
            template: chat template arguments such as enable_thinking=False.

        Raises:
            InvalidRequest: also when the model has no chat template, or one that leaves out what was asked for.
        """
        return blocking(
            lambda: self.achat(messages, params, tools=tools, continue_final_message=continue_final_message, **template)
        )

    def stream(self, prompt: Prompt | Sequence[Message], params: SamplingParams | None = None) -> TextStream:
        """Pieces of the first sample's text as they come (messages are a chat); closing it cancels."""
        return TextStream(self.loaded.client, self._request(self._prompt_or_chat(prompt), params))

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
        requests = await asyncio.to_thread(
            lambda: [self._request(self._tokens(prompt), one) for prompt, one in zip(listed, each, strict=True)]
        )
        gate = asyncio.Semaphore(WINDOW)

        async def one(request: Request) -> Completion:
            async with gate:
                while True:
                    try:
                        return await self._collect(request)
                    except QueueFull:
                        await asyncio.sleep(RETRY_S)

        return await gather([one(request) for request in requests], progress)

    async def achat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Message] | None = None,
        continue_final_message: bool = False,
        **template: Any,
    ) -> Completion:
        """The same as `chat`, awaitable."""
        tokens = self.loaded.tokenizer.encode_chat(
            list(messages),
            tools=tools,
            add_generation_prompt=not continue_final_message,
            continue_final_message=continue_final_message,
            kwargs=template,
        )
        return await self._collect(self._request(tokens, params))

    async def astream(
        self, prompt: Prompt | Sequence[Message], params: SamplingParams | None = None
    ) -> AsyncIterator[str]:
        """The same as `stream`, for `async for`."""
        client, request = self.loaded.client, self._request(self._prompt_or_chat(prompt), params)
        found = empty_completion(request)
        done = False
        try:
            async for events in client.submit(request):
                for event in events:
                    found.add(event)
                    if event.sample == 0 and event.text:
                        yield event.text
            done = True
        finally:
            if not done:
                client.cancel(request.id)

    def close(self) -> None:
        """Ends what runs and frees the engine's thread and memory; a second call does nothing."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def _request(self, tokens: Sequence[int], params: SamplingParams | None) -> Request:
        return self.loaded.request(f"lib-{secrets.token_hex(8)}", tuple(tokens), params)

    def _tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return self.loaded.tokenizer.encode(prompt)
        return _ids(prompt)

    def _prompt_or_chat(self, prompt: Prompt | Sequence[Message]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return self._tokens(prompt)
        messages = [item for item in prompt if isinstance(item, Mapping)]
        if messages and len(messages) == len(prompt):
            return self.loaded.tokenizer.encode_chat(messages)
        return _ids(prompt)

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
        client, found = self.loaded.client, empty_completion(request)
        done = False
        try:
            async for events in client.submit(request):
                for event in events:
                    found.add(event)
            done = True
        finally:
            if not done:
                client.cancel(request.id)
        return found


def _ids(prompt: Any) -> tuple[int, ...]:
    """A prompt's token ids; nothing in it is passed over.

    Raises:
        InvalidRequest: something in it is no id.
    """
    try:
        return tuple(map(operator.index, prompt))
    except TypeError:
        raise InvalidRequest(
            "a prompt has something that is no token id.",
            param="prompt",
            hint="give a text, token ids, or messages; do not mix them.",
        ) from None


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    if prompts and all(isinstance(item, int) for item in prompts):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]
