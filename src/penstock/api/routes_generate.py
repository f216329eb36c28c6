"""POST /v1/completions and /v1/chat/completions: body in, answer or stream out.

Knows nothing about fields or frames. Invariant: bodies are counted while they are read, and parsed, rendered and
tokenized in a worker thread; the event loop only moves bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from penstock.api.answers import answer_body
from penstock.api.body import read_body
from penstock.api.chunks import Chunks
from penstock.api.generation import Run, Writer, gather, guarded, stream
from penstock.api.prepare import Caller, Prepared, prepare_chat, prepare_completion
from penstock.api.state import ApiState
from penstock.api.workers import LARGE_BYTES
from penstock.core import DeadlineExceeded, Stream


class Generate:
    """The ASGI endpoint of one kind of completion.

    Args:
        prepare: from bytes to what can run.
        prefix: of the answers' ids.
    """

    def __init__(self, prepare: Callable[[bytes, Caller], Prepared], prefix: str) -> None:
        self._prepare = prepare
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        state: ApiState = scope["app"].state.api
        with state.admitted():
            await self._answer(state, scope, receive, send)

    async def _answer(self, state: ApiState, scope: Scope, receive: Receive, send: Send) -> None:
        caller = Caller(
            id=f"{self._prefix}-{state.sources.draw_id()}",
            seed=state.sources.draw_seed(),
            tenant=scope.get("penstock.tenant", ""),
            arrival_s=state.sources.clock.now(),
            find_model=state.find_model,
        )
        with state.preparing():
            async with read_body(state, HttpRequest(scope, receive)) as body:
                prepared, streams = await state.workers.run(
                    lambda: self._submit(body, caller, state.sources.clock.now), len(body)
                )
        run = Run(state, prepared, streams)
        created = state.sources.epoch_s()
        if prepared.stream:
            abort, unsent = scope.get("penstock.abort", _nothing), scope.get("penstock.unsent", _none)
            writer = Writer(send, state.sources.clock.now, abort, unsent)
            await stream(run, Chunks(prepared, caller.id, created), writer, receive)
            return
        gathered = await guarded(run, receive, gather(run))
        if prepared.requests[0].sampling.prompt_logprobs is None:
            answer = answer_body(prepared, gathered, caller.id, created)
        else:  # as long as the prompt, times the alternatives: too long for the loop
            answer = await state.workers.run(lambda: answer_body(prepared, gathered, caller.id, created), LARGE_BYTES)
        await send_bytes(send, answer, b"application/json")

    def _submit(self, body: bytes, caller: Caller, now: Callable[[], float]) -> tuple[Prepared, list[Stream]]:
        """In a worker thread: everything from the bytes to the engine's queue, all prompts or none."""
        prepared = self._prepare(body, caller)
        _check_time_left(prepared, now())
        streams: list[Stream] = []
        try:
            for request in prepared.requests:
                streams.append(prepared.model.client.submit(request))
        except BaseException:
            for request in prepared.requests[: len(streams)]:
                prepared.model.client.cancel(request.id)
            raise
        return prepared, streams


def completions() -> Generate:
    """The endpoint of POST /v1/completions."""
    return Generate(prepare_completion, "cmpl")


def chat_completions() -> Generate:
    """The endpoint of POST /v1/chat/completions."""
    return Generate(prepare_chat, "chatcmpl")


def _check_time_left(prepared: Prepared, now_s: float) -> None:
    first = prepared.requests[0]
    if first.deadline_s is not None and first.deadline_s <= now_s:
        raise DeadlineExceeded(
            f"timeout_s was over before the request could start: reading it took {now_s - first.arrival_s:.2g} s.",
            param="timeout_s",
            hint="give it more time.",
        )


async def send_bytes(send: Send, data: bytes, media: bytes, status: int = 200) -> None:
    """Sends a whole answer."""
    headers = [(b"content-type", media), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def _nothing() -> None:
    """Where the server gave no way to abort a connection."""


def _none() -> int:
    """What waits in a connection whose server does not tell."""
    return 0
