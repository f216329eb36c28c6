"""Models, health, version, documentation; and how health answers while other things are heavy."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import openai
import pytest

import penstock
from penstock.api import ApiSettings, ServedModel, create_app
from penstock.api.unsupported import IGNORED, REFUSED
from penstock.core import ConfigError


def test_models(shared):
    client = shared.client()
    assert [model.id for model in client.models.list()] == ["toy", "gpt-toy"]
    assert client.models.retrieve("gpt-toy").to_dict()["root"] == "toy"
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("other/name")
    assert raised.value.code == "model_not_found"


def test_version_and_health(shared):
    assert shared.get("/version").json() == {"version": penstock.__version__}
    assert shared.get("/health/live").json() == {"status": "ok"}
    ready = shared.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["models"]["toy"]["status"] == "ready"
    assert ready.json()["models"]["toy"]["tier"] == "toy"
    assert shared.get("/health").status_code == 200
    assert shared.http.head(shared.url + "/health/live").status_code == 200


def test_a_dead_engine_is_not_ready(start_server, scripted):
    server = start_server(scripted(dead=True))
    answer = server.get("/health/ready")
    assert (answer.status_code, answer.json()["models"]["toy"]["status"]) == (503, "dead")
    assert server.get("/health/live").status_code == 200


def test_readiness_follows_steps_while_there_is_work(start_server, scripted):
    engine = scripted(stuck_at_s=time.monotonic() - 1000, first_delay_s=0.8)
    server = start_server(engine, ApiSettings(stall_s=0.3, grace_s=0.2))
    assert server.get("/health/ready").status_code == 200  # nothing to do: an old step is no stall
    thread = threading.Thread(target=server.complete)
    thread.start()
    while not engine.requests:
        time.sleep(0.01)
    assert httpx.get(server.url + "/health/ready").status_code == 200  # work came just now
    time.sleep(0.4)
    stalled = httpx.get(server.url + "/health/ready")
    assert (stalled.status_code, stalled.json()["models"]["toy"]["status"]) == (503, "stalled")
    thread.join()
    assert server.get("/health/ready").status_code == 200


def test_health_answers_while_bodies_are_heavy(process):
    _, url = process(0.2, 0.0)
    ids = ",".join(["97"] * 300_000)
    bodies = [f'"prompt":[{ids}]', f'"prompt":"{"x" * 1_000_000}"', f'"prompt":"x","metadata":{{"a":[{ids}]}}']
    statuses = []

    def load(body):
        with httpx.Client(verify=False) as client:
            for _ in range(2):
                given = {"content": f'{{"model":"toy",{body}}}', "headers": {"content-type": "application/json"}}
                statuses.append(client.post(url + "/v1/completions", timeout=20, **given).status_code)

    threads = [threading.Thread(target=load, args=(bodies[k % 3],)) for k in range(10)]
    for thread in threads:
        thread.start()
    times = []
    with httpx.Client(verify=False) as client:
        while any(thread.is_alive() for thread in threads):
            began = time.monotonic()
            assert client.get(url + "/health/live").status_code == 200
            times.append(time.monotonic() - began)
    assert sorted(statuses) == [200] * 6 + [400] * 14
    assert sorted(times)[int(len(times) * 0.95)] < 0.2, times


def test_openapi_document(shared):
    document = shared.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    listed = {(path, method) for path, methods in document["paths"].items() for method in methods}
    served = {
        (route.path.replace(":path", ""), method.lower())
        for route in shared.server.config.app.routes
        for method in route.methods - {"HEAD"}
    }
    assert listed == served
    fields = document["components"]["schemas"]["ChatBody"]["properties"]
    assert {"messages", "temperature", "top_k", "stream_options", "chat_template_kwargs"} <= set(fields)


def test_docs_page_needs_no_network(shared):
    page = shared.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for word in ("/v1/chat/completions", "min_p", "cache_salt", "tool_choice"):
        assert word in page.text
    assert "http://" not in page.text and "https://" not in page.text and "<script" not in page.text


def test_the_written_page_lists_every_field():
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    for name in (*IGNORED, *REFUSED, "best_of"):
        assert f"`{name}`" in text, name


def test_names_are_checked_at_start(shared):
    with pytest.raises(ConfigError):
        create_app({}, ApiSettings())
    model = ServedModel("a", shared.engine, None, 10, (), 10, aliases=("a",))
    with pytest.raises(ConfigError):
        create_app({"a": model}, ApiSettings())
