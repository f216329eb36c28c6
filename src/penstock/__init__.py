"""penstock serves large language models.

Knows nothing itself: public names are fetched from their rooms when first used: `import penstock` stays instant.
Invariant: importing this package loads no third-party module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from penstock.assemble import LoadOptions
    from penstock.core import PenstockError, SamplingParams
    from penstock.llm import LLM, Completion, Sample, TextStream

__all__ = [
    "Completion",
    "LLM",
    "LoadOptions",
    "PenstockError",
    "Sample",
    "SamplingParams",
    "TextStream",
    "__version__",
]

_ROOMS = {
    "LLM": "penstock.llm",
    "Completion": "penstock.llm",
    "LoadOptions": "penstock.assemble",
    "PenstockError": "penstock.core",
    "Sample": "penstock.llm",
    "SamplingParams": "penstock.core",
    "TextStream": "penstock.llm",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
