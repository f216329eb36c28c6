"""The types of the native module as mypy sees them are those that it has."""

import subprocess
import sys
from pathlib import Path

STUB = Path(__file__).parents[2] / "src" / "penstock" / "_native.pyi"


def test_stub_is_what_the_module_says(tmp_path):
    fresh = tmp_path / "_native.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "penstock._native", "-o", fresh]
    subprocess.run(command, check=True)
    assert STUB.read_text() == fresh.read_text(), "hint: python -m nanobind.stubgen -m penstock._native -o " + str(STUB)


def test_no_bare_containers():
    text = STUB.read_text()
    for bare in (": tuple,", ": list,", ": dict)", "-> tuple:", "-> list:", "-> object:"):
        assert bare not in text
