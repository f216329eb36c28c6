"""Every example runs as it stands and type-checks as a user's code would."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.live_server import ROOT, LiveServer

EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_every_example_has_a_test() -> None:
    tested = {"batch.py", "chat.py", "openai_client.py", "streaming.py", "demo.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_the_openai_client() -> None:
    with LiveServer() as server:
        first, again = run("openai_client.py", server.url), run("openai_client.py", server.url)
    assert first.returncode == 0, first.stderr
    assert "The old house stood" in first.stdout and "The sea was calm" in first.stdout
    assert first.stdout == again.stdout  # seeds repeat
    assert run("openai_client.py", server.url).returncode != 0  # the control: nobody listens any more


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("batch.py", "tokens for 200 prompts"),
        ("streaming.py", "The mountain"),
        ("chat.py", "prompt tokens cached]"),
    ],
)
def test_the_library_examples(name: str, said: str) -> None:
    first, again = run(name), run(name)
    assert first.returncode == 0, first.stderr
    assert said in first.stdout
    assert "leaked" not in first.stderr and "Traceback" not in first.stderr
    assert first.stdout == again.stdout


def test_examples_are_typed_as_a_user_would_check_them() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(EXAMPLES)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=ROOT)
    assert checked.returncode == 0, checked.stdout
