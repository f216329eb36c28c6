"""A wheel serves a completion in an environment that has the base dependencies only and no compiler."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.packaging.installed import ROOT, base_distributions, installed_files

COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "cmake", "ninja", "make", "ld")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir"]
    done = subprocess.run([*command, str(out), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment: the wheel unpacked by pip, and links to the base dependencies and nothing else."""
    place = tmp_path_factory.mktemp("env") / "venv"
    venv.create(place, symlinks=True)
    site = next(place.glob("lib/python*/site-packages"))
    for distribution in base_distributions().values():
        root = Path(str(distribution.locate_file("")))
        for top in {path.relative_to(root).parts[0] for path in installed_files(distribution)}:
            if not (site / top).exists():
                (site / top).symlink_to(root / top)
    command = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "--quiet"]
    flags = ["--no-deps", "--no-index", "--disable-pip-version-check"]
    done = subprocess.run([*command, *flags, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def server(environment: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    env = {"PATH": str(environment / "bin"), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [str(environment / "bin" / "penstock"), "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        said = []
        try:
            for line in process.stderr or ():
                said.append(line)
                if found := re.search(r"ready in .* on (http://\S+)", line):
                    yield process, found[1]
                    break
            else:
                pytest.fail("".join(said))
        finally:
            process.kill()


@pytest.mark.slow
def test_the_wheel_has_the_model_and_no_leftovers(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "MODEL_CARD.md"):
        assert f"penstock/models/bundled/{name}" in names
    assert "penstock/py.typed" in names
    assert sum(name.startswith("penstock/_native.") and name.endswith(".so") for name in names) == 1
    assert not [name for name in names if name.endswith((".pyc", ".cc", ".h")) or name.startswith("tests")]


@pytest.mark.slow
def test_it_serves_without_a_compiler_or_torch(server: tuple[subprocess.Popen[str], str], environment: Path) -> None:
    process, address = server
    assert not [name for name in COMPILERS if (environment / "bin" / name).exists()]
    probe = [str(environment / "bin" / "python"), "-c", "import torch"]
    assert subprocess.run(probe, capture_output=True).returncode == 1, "torch must not even be there"
    with urllib.request.urlopen(f"{address}/v1/models", timeout=30) as answer:
        name = json.loads(answer.read())["data"][0]["id"]
    body = json.dumps({"model": name, "prompt": "The old man", "max_tokens": 12, "temperature": 0}).encode()
    request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        content = json.loads(answer.read())
    assert content["usage"]["completion_tokens"] >= 1
    assert content["choices"][0]["text"].strip()
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0
