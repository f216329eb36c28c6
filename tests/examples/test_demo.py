"""The demo as a person runs it: an answer, its speed, exit code 0; and a failure that is said and not hidden."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_demo(tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / "demo.py")]
    full = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **env}
    return subprocess.run(command, capture_output=True, text=True, env=full, timeout=120)


def test_it_prints_an_answer_and_its_speed(tmp_path: Path) -> None:
    done = run_demo(tmp_path)
    assert done.returncode == 0, done.stderr
    found = re.search(r"TTFT ([\d.]+) ms, (\d+) tok/s over (\d+) tokens", done.stdout)
    assert found, done.stdout
    assert float(found[1]) > 0
    assert int(found[2]) > 0
    assert int(found[3]) > 1
    assert len(done.stdout.split()) > 20
    assert "ready in" in done.stderr


def test_a_server_that_cannot_start_is_a_failure(tmp_path: Path) -> None:
    done = run_demo(tmp_path, PENSTOCK_MODEL=str(tmp_path / "gone"))
    assert done.returncode == 1
    assert "before it was ready" in done.stderr
    assert "TTFT" not in done.stdout
