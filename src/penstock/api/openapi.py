"""The OpenAPI document, from the same models that check the bodies, and a page that shows it without a network.

Knows nothing about requests. Invariant: it is built when somebody asks, never at start.
"""

from __future__ import annotations

import html
import json
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from penstock.api.fields import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from penstock.api.unsupported import IGNORED, REFUSED

# (method, path, what it does, body)
OPERATIONS: Final[tuple[tuple[str, str, str, type[BaseModel] | None], ...]] = (
    ("get", "/v1/models", "The models served here.", None),
    ("get", "/v1/models/{model}", "One of them.", None),
    ("post", "/v1/completions", "Continues text or token ids; streamed on request.", CompletionBody),
    ("post", "/v1/chat/completions", "Answers a conversation; streamed on request.", ChatBody),
    ("post", "/tokenize", "Token ids of a text or a conversation.", TokenizeBody),
    ("post", "/detokenize", "The text of token ids.", DetokenizeBody),
    ("get", "/health", "The same as /health/ready.", None),
    ("get", "/health/live", "200 while the process answers.", None),
    ("get", "/health/ready", "200 when requests will be served; 503 when draining, dead or stalled.", None),
    ("get", "/metrics", "Prometheus text.", None),
    ("get", "/version", "The server's version.", None),
    ("get", "/docs", "This page.", None),
    ("get", "/openapi.json", "The OpenAPI document.", None),
)

_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def openapi_document(version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of every route."""
    bodies = [(body, "validation") for _, _, _, body in OPERATIONS if body is not None]
    _, definitions = models_json_schema(bodies, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    paths: dict[str, Any] = {}
    for method, path, words, body in OPERATIONS:
        paths.setdefault(path, {})[method] = _operation(method, path, words, body)
    return {
        "openapi": "3.1.0",
        "info": {"title": "penstock", "version": version},
        "paths": paths,
        "components": {
            "schemas": {**definitions["$defs"], "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _operation(method: str, path: str, words: str, body: type[BaseModel] | None) -> dict[str, Any]:
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    made: dict[str, Any] = {
        "summary": words,
        "responses": {"200": {"description": "Done."}, "default": {"description": "The error contract.", **error}},
    }
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if "{" in path:
        name = path.partition("{")[2].partition("}")[0]
        made["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}]
    return made


_STYLE: Final = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1b1f24}h1{font-size:1.6rem}h2{font-size:1.05rem;margin:2rem 0 .2rem;font-family:ui-monospace,monospace}
table{border-collapse:collapse;width:100%}td,th{border-top:1px solid #d8dee4;padding:.25rem .6rem;text-align:left;
vertical-align:top}code,td:first-child{font-family:ui-monospace,monospace}.m{color:#0a5;text-transform:uppercase}
@media(prefers-color-scheme:dark){body{background:#14171a;color:#e4e7ea}td,th{border-color:#333a41}.m{color:#5d9}}"""


def docs_page(version: str) -> str:
    """The document as one page of HTML that needs nothing else."""
    document = openapi_document(version)
    schemas = document["components"]["schemas"]
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>penstock API</title><style>{_STYLE}</style>',
        f"<h1>penstock {html.escape(version)}: API</h1>",
        '<p>The machine-readable form is <a href="/openapi.json">/openapi.json</a>.</p>',
    ]
    for method, path, words, body in OPERATIONS:
        parts.append(f'<h2><span class="m">{method}</span> {html.escape(path)}</h2><p>{html.escape(words)}</p>')
        if body is not None:
            parts.append(_fields_table(schemas[body.__name__]))
    parts.append(f"<h2>Ignored fields</h2><p><code>{', '.join(sorted(IGNORED))}</code></p>")
    parts.append(f"<h2>Refused fields</h2><p><code>{', '.join(sorted([*REFUSED, 'best_of']))}</code></p></html>")
    return "\n".join(parts)


def _fields_table(schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = []
    for name, field in schema["properties"].items():
        words = field.get("description", "") + (" Required." if name in required else "")
        rows.append(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(_kind(field))}</td><td>{html.escape(words)}</td>"
        )
    return f"<table><tr><th>field<th>type<th></tr>{''.join(rows)}</table>"


def _kind(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    for union in ("anyOf", "oneOf"):
        if union in field:
            return " | ".join(_kind(branch) for branch in field[union])
    if field.get("type") == "array":
        return f"list of {_kind(field['items'])}" if "items" in field else "list"
    if "enum" in field:
        return " | ".join(json.dumps(value) for value in field["enum"])
    return str(field.get("type", "any"))
