"""The HTTP surface: an OpenAI-compatible API over engine clients."""

from penstock.api.app import (
    create_app,
)
from penstock.api.server import (
    serve,
)
from penstock.api.settings import (
    ApiSettings,
    ServedModel,
)

__all__ = [
    "ApiSettings",
    "ServedModel",
    "create_app",
    "serve",
]
