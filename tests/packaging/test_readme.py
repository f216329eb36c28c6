"""The README's examples run as they stand, against a real server and in process."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.live_server import ROOT, LiveServer

EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def run_example(code: str, tmp_path: Path) -> str:
    (tmp_path / "example.py").write_text(code)
    done = subprocess.run([sys.executable, str(tmp_path / "example.py")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_two_examples() -> None:
    assert len(EXAMPLES) == 2


def test_the_first_request(tmp_path: Path) -> None:
    assert "http://127.0.0.1:8000/v1" in EXAMPLES[0]
    with LiveServer() as server:
        said = run_example(EXAMPLES[0].replace("http://127.0.0.1:8000", server.url), tmp_path)
        assert server.stop() == 0
    assert len(said.split()) > 10
    with pytest.raises(AssertionError, match="Connection"):
        run_example(EXAMPLES[0].replace("127.0.0.1:8000", "127.0.0.1:1"), tmp_path)


def test_the_library(tmp_path: Path) -> None:
    assert len(run_example(EXAMPLES[1], tmp_path).split()) > 10
