"""Keys, hosts, origins, request ids: every route, one table."""

from __future__ import annotations

import logging

import pytest

from penstock.api import ApiSettings
from penstock.api.guard import PUBLIC_PATHS
from penstock.core import ConfigError

KEYS = ("first-key-0123", "second-key-4567")


@pytest.fixture(scope="module")
def locked(start_shared):
    return start_shared(settings=ApiSettings(api_keys=KEYS, grace_s=0.2))


def routes(server):
    for route in server.server.config.app.routes:
        for method in sorted(route.methods):
            yield method, route.path.replace("{model:path}", "toy")


def test_every_route_but_health_needs_a_key(locked):
    seen = set()
    for method, path in routes(locked):
        answer = locked.http.request(method, locked.url + path)
        seen.add(path)
        if path in PUBLIC_PATHS:
            assert answer.status_code == 200, path
        else:
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            if method != "HEAD":
                assert answer.json()["error"]["code"] == "invalid_api_key"
    assert seen > PUBLIC_PATHS and len(seen) == 13
    assert locked.get("/no/such/route").status_code == 401
    for key in KEYS:
        assert locked.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
        assert locked.client(api_key=key).models.list().data[0].id == "toy"


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Basic first-key-0123", "first-key-0123", "Bearer first-key-012",
     "Bearer first-key-01234", "Bearer FIRST-KEY-0123", "Bearer  first-key-0123",
     "Bearer first-key-0123,second-key-4567", "Bearer " + "x" * 60_000],
)  # fmt: skip
def test_wrong_keys(locked, value):
    assert locked.get("/v1/models", headers={"authorization": value}).status_code in (401, 431)


def test_two_keys_in_one_request(locked):
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    right = b"Authorization: Bearer first-key-0123\r\n"
    assert b" 401 " in locked.raw(head + right + b"Authorization: Bearer x\r\n\r\n").split(b"\r\n")[0]
    assert b" 200 " in locked.raw(head + right + b"\r\n").split(b"\r\n")[0]
    assert b" 400 " in locked.raw(head + b"Authorization: Bearer first-key-0123\0\r\n\r\n").split(b"\r\n")[0]


@pytest.mark.parametrize(
    "target",
    ["//v1/models", "/v1/../v1/models", "/%2e%2e/v1/models", "/v1%2fmodels", "http://localhost/v1/models",
     "/health/../v1/models",
     "/health/live/../../v1/models", "/health%2f..%2fv1/models"],
)  # fmt: skip
def test_no_spelling_of_a_path_goes_round_the_keys(locked, target):
    answer = locked.raw(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ")[1] in (b"400", b"401", b"404")


def test_tenants_do_not_share_prefixes(locked):
    for key in KEYS:
        headers = {"authorization": f"Bearer {key}"}
        for salt in (None, "s"):
            body = {"model": "toy", "prompt": "x", "cache_salt": salt}
            assert locked.post("/v1/completions", body, headers=headers).status_code == 200
    requests = locked.engine.requests
    assert len({request.cache_salt for request in requests}) == 4
    assert len({request.tenant for request in requests}) == 2
    assert not any(key in request.tenant for request in requests for key in KEYS)


def test_keys_are_checked_at_start():
    for key in ("", "has space", "tab\t", "ключ"):
        with pytest.raises(ConfigError):
            ApiSettings(api_keys=(key,))


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("LOCALHOST", 200),
     ("evil.example", 403), ("127.0.0.1.evil.example", 403), ("localhost.evil.example:80", 403), ("10.0.0.1", 403),
     ("x/v1/models?", 400), ("a b", 400), ("a@localhost", 400), ("localhost#", 400), ("localhost:80:80", 400),
     ("", 400)],
)  # fmt: skip
def test_hosts_on_loopback(shared, host, status):
    answer = shared.raw(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert int(answer.split(b" ")[1]) == status


def test_two_hosts_or_none(shared):
    two = shared.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    none = shared.raw(b"GET / HTTP/1.0\r\n\r\n")
    assert two.split(b" ")[1] == none.split(b" ")[1] == b"400"


def test_browser_origins(start_server):
    server = start_server(settings=ApiSettings(cors_origins=("https://app.example",), grace_s=0.2))
    for origin, status in (
        ("https://evil.example", 403),
        ("null", 403),
        ("https://app.example.evil", 403),
        ("http://localhost:3000", 200),
        ("https://app.example", 200),
    ):
        answer = server.get("/v1/models", headers={"origin": origin})
        assert answer.status_code == status
        allowed = answer.headers.get("access-control-allow-origin")
        assert allowed == (origin if origin == "https://app.example" else None)
    ask = {"origin": "https://app.example", "access-control-request-method": "POST"}
    preflight = server.http.options(server.url + "/v1/completions", headers=ask)
    assert preflight.status_code == 204
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    names = "authorization,content-type,x-stainless-lang, x-stainless-os"
    for asked, given in ((names, names), ("a\tb", "authorization, content-type, x-request-id"), ("x" * 5000, None)):
        sent = {**ask, "access-control-request-headers": asked}
        allowed = server.http.options(server.url + "/v1/completions", headers=sent).headers
        assert allowed["access-control-allow-headers"] == (given or "authorization, content-type, x-request-id")
    ask["origin"] = "https://evil.example"
    refused = server.http.options(server.url + "/v1/completions", headers=ask)
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers
    wrong = server.post("/v1/completions", {}, headers={"origin": "https://app.example"})
    assert (wrong.status_code, wrong.headers["access-control-allow-origin"]) == (400, "https://app.example")


@pytest.mark.parametrize("given", ["abc-123", "x" * 129, "a b", "", "é".encode(), "<script>"])
def test_request_ids(shared, given):
    answer = shared.get("/health/live", headers={"x-request-id": given})
    assert answer.status_code == 200
    assert (answer.headers["x-request-id"] == given) == (given == "abc-123")


def test_one_request_id_for_two_requests(shared):
    for _ in range(2):
        answer = shared.post("/v1/completions", {"model": "toy", "prompt": "x"}, headers={"x-request-id": "same"})
        assert answer.headers["x-request-id"] == "same"
    assert shared.engine.requests[-1].id != shared.engine.requests[-2].id


def test_unknown_routes_and_methods(shared):
    assert shared.get("/nothing").json()["error"]["code"] == "not_found"
    assert shared.get("/v1/models/").status_code == 404
    assert shared.get("/v1/completions").json()["error"]["code"] == "method_not_allowed"
    assert shared.http.delete(shared.url + "/v1/models/toy").status_code == 405


def test_our_own_bug_says_nothing_about_itself(start_server, scripted, caplog):
    server = start_server(scripted(submit_error=KeyError("secret of /etc")))
    with caplog.at_level(logging.CRITICAL, logger="penstock.api"):
        answer = server.complete()
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in answer.text
    assert answer.headers["x-should-retry"] == "false"
