"""The whole product as a process: what is printed, what is answered, how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from tests.cli.terminal import Terminal, is_one_error, penstock
from tests.live_server import ROOT, LiveServer
from tests.model.llama2c import convert

from penstock.cli.serve import curl_line

TINY = ROOT.parent / "shared/data/tiny_model"


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not TINY.is_dir():
        pytest.skip("the published stories260K checkpoint is not at ../shared/data/tiny_model")
    folder = tmp_path_factory.mktemp("stories260K")
    convert(TINY / "stories260K.bin", TINY / "tok512.bin", folder)
    return folder


@pytest.fixture(scope="module")
def server(stories: Path) -> Iterator[LiveServer]:
    with LiveServer(str(stories), "--served-model-name", "stories", "--served-model-name", "alias") as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_a_published_checkpoint_gives_its_published_text(client: openai.OpenAI) -> None:
    expected = (TINY / "expected_greedy_200_steps.txt").read_text().rstrip("\n")
    answer = client.completions.create(model="stories", prompt=[1], temperature=0, max_tokens=200)
    assert answer.choices[0].text.strip() == expected.strip()


def test_streamed_text_is_the_same_and_usage_comes_last(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="alias", prompt="Once upon a time", seed=7, max_tokens=60)
    stream = client.completions.create(
        model="stories",
        prompt="Once upon a time",
        seed=7,
        max_tokens=60,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_the_serving_process_has_no_torch(server: LiveServer, client: openai.OpenAI) -> None:
    client.completions.create(model="stories", prompt="A", max_tokens=2)
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libtorch" not in maps and "/torch/" not in maps
    assert "numpy" in maps  # the control: loaded libraries do show here


def test_what_is_printed_tells_the_kv_and_a_command_to_paste(server: LiveServer) -> None:
    text = "\n".join(server.lines)
    assert "kv: " in text and "pages" in text
    assert "ready in" in text and "curl -N http://127.0.0.1:" in text


def test_bad_input_is_a_400_and_the_next_request_is_served(server: LiveServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="stories", prompt="A", max_tokens=0)
    assert caught.value.body["param"] == "max_tokens"  # type: ignore[index]
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="A")
    assert client.completions.create(model="stories", prompt="A", max_tokens=1).choices[0].finish_reason == "length"


def test_sigterm_lets_a_stream_finish_then_exits_zero(stories: Path) -> None:
    with LiveServer(str(stories)) as live, openai.OpenAI(base_url=f"{live.url}/v1", api_key="x", max_retries=0) as one:
        name = one.models.list().data[0].id
        stream = one.completions.create(
            model=name, prompt="Once", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
        )
        first = next(iter(stream))
        assert first.choices
        live.process.send_signal(signal.SIGTERM)
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason == "length"
        assert live.process.wait(30) == 0


def test_a_second_signal_ends_at_once(stories: Path) -> None:
    with LiveServer(str(stories), "--max-model-tokens", "512") as live:
        name = json.load(urllib.request.urlopen(f"{live.url}/v1/models", timeout=5))["data"][0]["id"]
        body = {"model": name, "prompt": ["Once"] * 64, "max_tokens": 500, "ignore_eos": True, "stream": True}

        def ask() -> None:
            request = urllib.request.Request(
                f"{live.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with contextlib.suppress(OSError, http.client.HTTPException):
                urllib.request.urlopen(request, timeout=60).read()

        asking = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
        for thread in asking:
            thread.start()
        time.sleep(1.0)
        live.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        live.process.send_signal(signal.SIGINT)
        started = time.monotonic()
        live.process.wait(10)
        assert time.monotonic() - started < 5
        for thread in asking:
            thread.join(10)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "no_such_thing"}'), "no_such_thing"),
        (lambda folder: _truncate(folder / "model.safetensors"), "model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    ],
    ids=["no tokenizer", "unknown architecture", "truncated weights", "corrupt config"],
)
def test_a_bad_checkpoint_is_one_line_and_no_listening(
    stories: Path, tmp_path: Path, break_it: object, said: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in stories.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    break_it(folder)  # type: ignore[operator]
    ran = subprocess.run(
        [sys.executable, "-m", "penstock", "serve", str(folder), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 78
    lines = [line for line in ran.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def test_a_model_that_is_not_there_is_one_line() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "penstock", "serve", "/no/such/model"], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2
    assert ran.stderr.strip().count("\n") == 0
    assert "no such file or folder: /no/such/model" in ran.stderr


def test_a_port_in_use_is_one_line_before_the_model_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")  # would fail, if it were read
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = penstock("serve", str(tmp_path), "--port", port)
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use. hint: " in is_one_error(ran, 2)
    assert "config.json" in is_one_error(penstock("serve", str(tmp_path), "--port", port), 78)  # the control: now free


def test_an_address_that_others_reach_is_warned_about_without_a_key() -> None:
    with LiveServer("--host", "0.0.0.0") as open_, LiveServer("--host", "0.0.0.0", "--api-key", "k") as keyed:
        assert any(line.startswith("warning: 0.0.0.0 is reachable") for line in open_.lines)
        assert not any(line.startswith("warning") for line in keyed.lines)
        assert open_.stop(signal.SIGINT) == keyed.stop(signal.SIGINT) == 0
        assert not any("Traceback" in line or "leaked" in line for line in open_.lines + keyed.lines)


def test_ctrl_c_at_a_terminal_ends_the_server_with_zero() -> None:
    with Terminal("serve", "--port", "0") as terminal:
        terminal.wait_for("curl -N")
        terminal.type("\x03")
        assert terminal.leave() == 0


@pytest.mark.parametrize("name", ["toy", 'it\'s "mine"', "a$(b)`c`\\ d", "名"])
@pytest.mark.parametrize("keyed", [True, False])
def test_the_line_to_paste_is_one_command_whatever_the_name(name: str, keyed: bool) -> None:
    words = shlex.split(curl_line("http://127.0.0.1:8000", name, keyed))
    assert words[:3] == ["curl", "-N", "http://127.0.0.1:8000/v1/completions"]
    assert words[-2] == "-d" and json.loads(words[-1])["model"] == name
    assert ("Authorization: Bearer YOUR_KEY" in words) is keyed
    assert len(words) == (9 if keyed else 7)
