"""The routes that generate nothing: models, tokens, health, metrics, version, documentation.

Knows nothing about generation. Invariant: readiness is judged by the steps that the engine commits, not by the process.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response

import penstock
from penstock.api.body import read_body
from penstock.api.openapi import docs_page, openapi_document
from penstock.api.prepare import prepare_detokenize, prepare_tokenize
from penstock.api.settings import ServedModel
from penstock.api.state import ApiState

# What a model's own generation settings decide where a request is silent.
DEFAULTS_SHOWN = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "min_tokens", "stop", "stop_token_ids",
)  # fmt: skip

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def _state(request: HttpRequest) -> ApiState:
    state: ApiState = request.app.state.api
    return state


async def list_models(request: HttpRequest) -> Response:
    """Every name that requests may use."""
    state = _state(request)
    return JSONResponse({"object": "list", "data": [_model_card(state, name) for name in state.names]})


async def get_model(request: HttpRequest) -> Response:
    """One model by name or alias."""
    state = _state(request)
    name = request.path_params["model"]
    state.find_model(name)
    return JSONResponse(_model_card(state, name))


def _model_card(state: ApiState, name: str) -> dict[str, Any]:
    model = state.find_model(name)
    return {
        "id": name,
        "object": "model",
        "created": state.created,
        "owned_by": "penstock",
        "root": model.name,
        "max_model_len": model.max_model_tokens,
        "defaults": {name: getattr(model.defaults, name) for name in DEFAULTS_SHOWN},
        "end_token_ids": list(model.eos_token_ids),
    }


async def tokenize(request: HttpRequest) -> Response:
    """Ids of a text or a conversation, in vLLM's shape."""
    state = _state(request)
    with state.admitted(), state.preparing():
        async with read_body(state, request) as body:
            return await state.workers.run(lambda: _tokenize(state, body), len(body))


def _tokenize(state: ApiState, body: bytes) -> Response:
    asked, model, tokens = prepare_tokenize(body, lambda name: _chosen(state, name))
    texts = [model.tokenizer.token_text(token) for token in tokens] if asked.return_token_strs else None
    answer = {"count": len(tokens), "max_model_len": model.max_model_tokens, "tokens": tokens, "token_strs": texts}
    return _json(answer)


async def detokenize(request: HttpRequest) -> Response:
    """The text of ids, in vLLM's shape."""
    state = _state(request)
    with state.admitted(), state.preparing():
        async with read_body(state, request) as body:
            return await state.workers.run(lambda: _detokenize(state, body), len(body))


def _detokenize(state: ApiState, body: bytes) -> Response:
    return _json({"prompt": prepare_detokenize(body, lambda name: _chosen(state, name))})


def _chosen(state: ApiState, name: str | None) -> ServedModel:
    return next(iter(state.models.values())) if name is None else state.find_model(name)


def _json(value: Any) -> Response:
    return Response(json.dumps(value, ensure_ascii=False).encode(), media_type="application/json")


async def live(request: HttpRequest) -> Response:
    """200 while the event loop turns."""
    return JSONResponse({"status": "ok"})


async def ready(request: HttpRequest) -> Response:
    """200 when every model takes work and makes progress; 503 with each model's trouble otherwise."""
    state = _state(request)
    models = {}
    well = not state.draining
    for model in state.models.values():
        snapshot = model.client.snapshot()
        trouble = state.trouble(model, snapshot)
        well = well and trouble is None
        models[model.name] = {
            "status": trouble or "ready",
            "steps": snapshot.steps,
            "running": snapshot.num_running,
            "waiting": snapshot.num_waiting,
            **model.details,
        }
    headers = None if well else {"retry-after": "1"}
    body = {"status": "ready" if well else "unavailable", "models": models}
    return JSONResponse(body, status_code=200 if well else 503, headers=headers)


async def metrics(request: HttpRequest) -> Response:
    """Prometheus text."""
    state = _state(request)
    snapshots = {model.name: model.client.snapshot() for model in state.models.values()}
    return Response(state.metrics.text(snapshots), headers={"content-type": _PROMETHEUS})


async def version(request: HttpRequest) -> Response:
    """The server's version."""
    return JSONResponse({"version": penstock.__version__})


async def openapi(request: HttpRequest) -> Response:
    """The OpenAPI document."""
    return JSONResponse(openapi_document(penstock.__version__))


async def docs(request: HttpRequest) -> Response:
    """The documentation page."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return HTMLResponse(docs_page(penstock.__version__), headers={"content-security-policy": policy})
