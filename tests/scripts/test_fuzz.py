"""The fuzzing script: silent where nothing is wrong, and it finds a fault that was planted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/fuzz.py"


def fuzz(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--findings", str(folder), "--first", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_planted_fault_is_found_and_its_case_kept(tmp_path: Path) -> None:
    ran = fuzz(tmp_path, "--planted", "wrong error", "--cases", "4", "--workers", "2")
    assert ran.returncode == 1 and "4 bug" in ran.stdout and "1 kinds of fault" in ran.stdout, ran.stderr
    (kept,) = tmp_path.glob("case-*.json")
    assert json.loads(kept.read_text())["kind"] == "bug"
    assert list((tmp_path / kept.stem).iterdir())


@pytest.mark.parametrize("start", [(), ("--start",)], ids=["open", "start"])
def test_sound_code_passes(tmp_path: Path, start: tuple[str, ...]) -> None:
    ran = fuzz(tmp_path, "--cases", "6", *start)
    assert ran.returncode == 0 and "0 kinds of fault" in ran.stdout, ran.stdout + ran.stderr
    assert not list(tmp_path.glob("case-*"))
