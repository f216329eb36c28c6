"""What an endpoint says of itself: the models it serves and how long their contexts are.

Knows nothing about load. Invariant: the answer is bounded and only read, never trusted to be of any shape.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx

from penstock.bench.bounded import read_bounded
from penstock.bench.client import Endpoint
from penstock.core import ConfigError, check_json_bounds
from penstock.core.limits import MAX_EVENT_BYTES, MAX_NAME_CHARS

WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of an endpoint, and the longest prompt with answer that it takes, where the endpoint says."""

    name: str
    max_model_tokens: int | None


def served_model(endpoint: Endpoint) -> ServedModel:
    """The model that `endpoint.model` names, or the first one where that is empty.

    Raises:
        ConfigError: the endpoint does not answer, or has no such model; names those that it has.
    """
    try:
        found = models_of(fetched(endpoint))
    except (httpx.HTTPError, ValueError, RecursionError) as error:
        if endpoint.model:
            return ServedModel(endpoint.model, None)  # many servers have no list; the run will tell
        raise ConfigError(
            f"{endpoint.url} names no models: {str(error)[:200] or type(error).__name__}.",
            param="model",
            hint="is it up? Otherwise give --model.",
        ) from None
    if not endpoint.model:
        return found[0]
    for one in found:
        if one.name == endpoint.model:
            return one
    raise ConfigError(
        f"{endpoint.url} has no model {endpoint.model[:80]!r}.",
        param="model",
        hint=f"it has {', '.join(one.name[:80] for one in found[:8])}.",
    )


def fetched(endpoint: Endpoint) -> Any:
    """The JSON of the endpoint's list of models."""
    parts = endpoint.parts
    headers = {} if endpoint.api_key is None else {"Authorization": f"Bearer {endpoint.api_key}"}
    with (
        httpx.Client(headers=headers, timeout=WAIT_S, trust_env=False) as http,
        http.stream("GET", parts._replace(path=f"{parts.path}/models").geturl()) as answer,
    ):
        data = read_bounded(answer, MAX_EVENT_BYTES)
        if answer.status_code != 200:
            raise ValueError(f"status {answer.status_code}")
    check_json_bounds(data, 16 * MAX_EVENT_BYTES)
    return json.loads(data)


def models_of(listed: Any) -> list[ServedModel]:
    """The models of a list, in its order.

    Raises:
        ValueError: it is no list of models.
    """
    rows = listed.get("data") if isinstance(listed, dict) else None
    found = []
    for row in rows if isinstance(rows, list) else ():
        name = row.get("id") if isinstance(row, dict) else None
        if isinstance(name, str) and 0 < len(name) <= MAX_NAME_CHARS and name.isprintable():
            length = row.get("max_model_len")
            found.append(ServedModel(name, length if type(length) is int and length > 0 else None))
    if not found:
        raise ValueError("its list is empty")
    return found
