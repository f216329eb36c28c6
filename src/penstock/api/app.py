"""Puts the HTTP surface together: state, routes, guard.

Knows nothing about sockets. Invariant: every route of the server is in the one list here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from penstock.api import routes
from penstock.api.guard import Guard
from penstock.api.metrics import Metrics
from penstock.api.routes_generate import chat_completions, completions
from penstock.api.settings import ApiSettings, ServedModel
from penstock.api.state import ApiState, Sources
from penstock.api.workers import Workers
from penstock.core import ConfigError
from penstock.engine import WallClock


def create_app(models: Mapping[str, ServedModel], settings: ApiSettings, sources: Sources | None = None) -> Starlette:
    """The ASGI application.

    Args:
        models: by name; the first one serves /tokenize and /detokenize where a request names none.
        settings: choices of the server.
        sources: time and chance; the machine's own by default.

    Raises:
        ConfigError: no model, or two with one name.
    """
    _check_names(models)
    given = sources or Sources(WallClock())
    state = ApiState(
        models={model.name: model for model in models.values()},
        settings=settings,
        sources=given,
        workers=Workers(settings.workers, settings.large_workers),
        metrics=Metrics(
            {model.name: model.max_model_tokens for model in models.values()},
            {model.name: model.page_tokens for model in models.values() if model.page_tokens},
        ),
        created=given.epoch_s(),
    )
    listed = _routes()
    guard = Middleware(Guard, state=state, routes={route.endpoint: route.path for route in listed})
    app = Starlette(
        routes=list[BaseRoute](listed),
        middleware=[guard],
        lifespan=_lifespan,
        exception_handlers={HTTPException: _to_guard},
    )
    app.router.redirect_slashes = False
    app.state.api = state
    return app


def _routes() -> list[Route]:
    return [
        Route("/v1/models", routes.list_models, methods=["GET"]),
        Route("/v1/models/{model:path}", routes.get_model, methods=["GET"]),
        Route("/v1/completions", completions(), methods=["POST"]),
        Route("/v1/chat/completions", chat_completions(), methods=["POST"]),
        Route("/tokenize", routes.tokenize, methods=["POST"]),
        Route("/detokenize", routes.detokenize, methods=["POST"]),
        Route("/health", routes.ready, methods=["GET"]),
        Route("/health/live", routes.live, methods=["GET"]),
        Route("/health/ready", routes.ready, methods=["GET"]),
        Route("/metrics", routes.metrics, methods=["GET"]),
        Route("/version", routes.version, methods=["GET"]),
        Route("/docs", routes.docs, methods=["GET"]),
        Route("/openapi.json", routes.openapi, methods=["GET"]),
    ]


async def _to_guard(request: HttpRequest, error: Exception) -> Response:
    """Leaves every failure to the guard."""
    raise error


def _check_names(models: Mapping[str, ServedModel]) -> None:
    names = [name for model in models.values() for name in (model.name, *model.aliases)]
    if not names:
        raise ConfigError("there is no model to serve.", param="models")
    if len(set(names)) != len(names):
        raise ConfigError("two models, or a model and an alias, have one name.", param="served_model_name")


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    state: ApiState = app.state.api
    state.workers.close()
