"""The OpenAPI document, from the same models that check the bodies, and a page that shows it without a network.

Knows nothing about requests. Invariant: it is built when somebody asks, never at start.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
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


_STYLE: Final = """:root{color-scheme:light dark;--line:#d8dee4;--soft:#57606a;--get:#0a6;--post:#06c;--back:#fff;
--fore:#1b1f24;--code:#f3f5f7}@media(prefers-color-scheme:dark){:root{--line:#333a41;--soft:#9aa4ae;--get:#5d9;
--post:#7bf;--back:#14171a;--fore:#e4e7ea;--code:#1e2327}}
body{font:15px/1.55 system-ui,sans-serif;max-width:56rem;margin:2.5rem auto;padding:0 1.2rem;background:var(--back);
color:var(--fore)}h1{font-size:1.7rem;margin:0}h2{font-size:1.15rem;margin:2.6rem 0 .2rem}
h2,code,pre,td:first-child,nav{font-family:ui-monospace,SFMono-Regular,Menlo,monospace}h2+p{margin:.2rem 0 .8rem}
nav{columns:2;font-size:.9rem;margin:1.2rem 0;padding:.8rem 1rem;background:var(--code);border-radius:6px}
nav a{display:block;color:inherit;text-decoration:none}nav a:hover{text-decoration:underline}
pre{background:var(--code);padding:.8rem 1rem;border-radius:6px;overflow-x:auto;font-size:.87rem}
table{border-collapse:collapse;width:100%;font-size:.93rem;table-layout:fixed}col.f{width:31%}col.t{width:23%}
td,th{border-top:1px solid var(--line);padding:.35rem .6rem .35rem 0;text-align:left;vertical-align:top;
overflow-wrap:anywhere}th{color:var(--soft);font-weight:500}td:nth-child(2){color:var(--soft)}
b{font-weight:600}.get,.post{display:inline-block;width:3.2em;text-transform:uppercase;font-size:.85em;font-weight:700}
.get{color:var(--get)}.post{color:var(--post)}.soft{color:var(--soft)}"""
_EXAMPLE: Final = """curl -N localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"model": "NAME", "messages": [{"role": "user", "content": "Hello"}], "stream": true}'"""


def docs_page(version: str) -> str:
    """The document as one page of HTML that needs nothing else."""
    document = openapi_document(version)
    schemas = document["components"]["schemas"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>penstock API</title><style>{_STYLE}</style></head><body>",
        f"<h1>penstock {html.escape(version)}</h1>",
        '<p class="soft">An OpenAI-compatible HTTP API. For programs: <a href="/openapi.json">/openapi.json</a>.</p>',
        f"<pre>{html.escape(_EXAMPLE)}</pre><nav>",
    ]
    for number, (method, path, _, _) in enumerate(OPERATIONS):
        parts.append(f'<a href="#o{number}">{_method(method)} {html.escape(path)}</a>')
    parts.append("</nav>")
    for number, (method, path, words, body) in enumerate(OPERATIONS):
        parts.append(f'<h2 id="o{number}">{_method(method)} {html.escape(path)}</h2><p>{html.escape(words)}</p>')
        if body is not None:
            parts.append(_fields_table(schemas[body.__name__]))
    parts.append(_names("Ignored fields", "Labels and hints: the answer is the same without them.", IGNORED))
    refused = "Not supported: 400 unless null or a value that asks for nothing."
    parts.append(_names("Refused fields", refused, [*REFUSED, "best_of"]))
    parts.append(
        "<h2>Errors</h2><p>Every answer that is not 2xx, and every error in a stream, is "
        '<code>{"error": {"message", "type", "param", "code"}}</code>.</p></body></html>'
    )
    return "\n".join(parts)


def _method(method: str) -> str:
    return f'<span class="{method}">{method}</span>'


def _names(title: str, words: str, names: Iterable[str]) -> str:
    listed = ", ".join(f"<code>{name}</code>" for name in sorted(names))
    return f"<h2>{title}</h2><p>{html.escape(words)}</p><p>{listed}</p>"


def _fields_table(schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = []
    for name, field in schema["properties"].items():
        words = html.escape(field.get("description", "")) + (" <b>Required.</b>" if name in required else "")
        rows.append(f"<tr><td>{html.escape(name)}</td><td>{html.escape(_kind(field))}</td><td>{words}</td></tr>")
    head = '<col class="f"><col class="t"><col><tr><th>field</th><th>type</th><th>meaning</th></tr>'
    return f"<table>{head}{''.join(rows)}</table>"


def _kind(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    for union in ("anyOf", "oneOf"):
        if union in field:
            return " | ".join(_kind(branch) for branch in field[union] if branch.get("type") != "null")
    if field.get("type") == "array":
        return f"list of {_kind(field['items'])}" if "items" in field else "list"
    if "enum" in field:
        return " | ".join(json.dumps(value) for value in field["enum"])
    return str(field.get("type", "any"))
