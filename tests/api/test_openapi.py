"""The document and the page: complete, consistent, and readable without a network."""

from __future__ import annotations

import html
import re

import pytest

from penstock.api import create_app
from penstock.api.openapi import OPERATIONS, docs_page, openapi_document
from penstock.api.settings import ApiSettings


@pytest.fixture(scope="module")
def document():
    return openapi_document("1.2.3")


def references(value):
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_route_of_the_server_is_in_it_and_nothing_else(served, document):
    app = create_app({"toy": served}, ApiSettings())
    routes = {(method.lower(), route.path.replace(":path", "")) for route in app.routes for method in route.methods}
    app.state.api.workers.close()
    listed = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert listed == {(method, path) for method, path in routes if method != "head"}


def test_every_reference_leads_somewhere(document):
    found = list(references(document))
    assert found
    for reference in found:
        place = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_bodies_name_their_fields_and_forbid_others(document):
    chat = document["components"]["schemas"]["ChatBody"]
    assert {"model", "messages"} <= set(chat["required"])
    assert chat["additionalProperties"] is False
    assert "timeout_s" in chat["properties"]
    assert document["info"]["version"] == "1.2.3" and document["openapi"].startswith("3.1")


def test_the_page_loads_nothing_from_anywhere_and_shows_every_operation():
    page = docs_page("<1.2.3>")
    assert "&lt;1.2.3&gt;" in page and "<1.2.3>" not in page
    assert not re.search(r"<script|<link|<img|@import|url\(|(?:href|src)=\"(?![#/])", page)
    for _, path, words, _ in OPERATIONS:
        assert path in page and html.escape(words) in page


def test_every_field_on_the_page_says_what_it_is(document):
    for name in ("CompletionBody", "ChatBody", "TokenizeBody", "DetokenizeBody"):
        for field, shown in document["components"]["schemas"][name]["properties"].items():
            assert shown.get("description"), f"{name}.{field}"
