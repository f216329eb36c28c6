"""`pull`, `list`, `run`, `verify` and `rm` as processes, against a hub on this machine."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.terminal import BUNDLED, Terminal, environment, is_one_error, penstock
from tests.model.hub_stub import Repo, StubHub, serve

FILES = {path.name: path.read_bytes() for path in BUNDLED.iterdir() if path.suffix != ".md"}


@pytest.fixture
def stub() -> Iterator[StubHub]:
    with serve({"org/tiny": Repo(FILES)}) as hub:
        yield hub


@pytest.fixture
def settings(stub: StubHub, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": stub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", "HF_HUB_OFFLINE": ""}


def test_a_model_from_pull_to_rm(stub: StubHub, settings: dict[str, str], tmp_path: Path) -> None:
    pulled = penstock("pull", "org/tiny", "--revision", "v1", **settings)
    assert pulled.returncode == 0, pulled.stderr
    folder = Path(pulled.stdout.strip())
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert f"commit {'a' * 40}, every digest checked" in pulled.stderr and len(pulled.stderr.splitlines()) == 1
    offline = {**settings, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}

    listed = penstock("list", **offline).stdout.splitlines()
    assert len(listed) == 2 and listed[1].startswith("org/tiny  aaaaaaaaaaaa (v1)")
    assert "safetensors BF16" in listed[1] and listed[1].endswith("just now   kept")

    ran = penstock("run", "Once", "-m", "org/tiny", "--revision", "v1", "--max-tokens", "2", **offline)
    assert ran.returncode == 0 and ran.stdout, ran.stderr

    weights = (folder / "model.safetensors").resolve()
    assert "org/tiny" in penstock("inspect", "org/tiny", "--revision", "v1", **offline).stdout.splitlines()[0]
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    times = weights.stat()
    weights.write_bytes(damaged)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    verified = penstock("verify", "org/tiny", **offline)
    assert verified.returncode == 78 and "1 of its files differ" in verified.stdout
    assert f"{folder / 'model.safetensors'}: sha256 is " in verified.stdout
    assert penstock("pull", "org/tiny", "--revision", "v1", **settings).returncode == 0
    assert penstock("verify", **offline).stdout.startswith("org/tiny aaaaaaaaaaaa: ok, ")

    assert penstock("rm", "org/tiny", **offline).stdout.startswith("org/tiny: removed, ")
    assert not list((tmp_path / "hf").rglob("model.safetensors"))


def test_an_empty_cache_is_fine(tmp_path: Path) -> None:
    empty = {"HF_HOME": str(tmp_path / "none")}
    listed = penstock("list", **empty)
    assert (listed.returncode, len(listed.stdout.splitlines()), listed.stderr) == (0, 1, "")
    verified = penstock("verify", **empty)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "nothing was pulled here\n")
    assert json.loads(penstock("list", "--json", **empty).stdout) == []
    assert "a/b: not in the cache" in is_one_error(penstock("rm", "a/b", **empty), 78)
    assert not (tmp_path / "none").exists()


def test_a_hub_id_is_pulled_by_run_and_said(settings: dict[str, str]) -> None:
    ran = penstock("run", "Once", "-m", "org/tiny", "--max-tokens", "2", "-q", **settings)
    assert ran.returncode == 0 and ran.stdout, ran.stderr
    assert ran.stderr.startswith(f"pulling org/tiny: {len(FILES)} files, ")


def test_what_cannot_be_pulled_is_one_line(stub: StubHub, settings: dict[str, str]) -> None:
    assert "not on the hub" in is_one_error(penstock("pull", "org/absent", **settings), 78)
    assert "HF_HUB_OFFLINE" in is_one_error(penstock("pull", "org/tiny", **{**settings, "HF_HUB_OFFLINE": "1"}), 78)
    assert "no hub id" in is_one_error(penstock("pull", "tiny", **settings), 78)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_cache_that_is_only_read(settings: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir(mode=0o500)
    assert "Permission denied" in is_one_error(penstock("pull", "org/tiny", **settings), 1)


def test_a_disk_that_takes_no_more_is_one_line_and_what_arrived_is_kept(settings: dict[str, str]) -> None:
    """A limit on the size of files stands in for a full disk: the same failing write, with another reason."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    ran = subprocess.run(
        [sys.executable, "-B", "-m", "penstock", "pull", "org/tiny"],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=limit,
    )
    assert "File too large. hint: what arrived is kept" in is_one_error(ran, 1)
    assert [part.stat().st_size for part in Path(settings["HF_HOME"]).rglob("*.incomplete")] == [100_000]
    assert penstock("pull", "org/tiny", **settings).returncode == 0


def test_ctrl_c_keeps_what_arrived(stub: StubHub, settings: dict[str, str]) -> None:
    stub.refuse = [(503, {"Retry_After": "30"})]
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", "pull", "org/tiny"],
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while stub.refuse and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert penstock("pull", "org/tiny", **settings).returncode == 0


def test_progress_is_shown_on_a_terminal(settings: dict[str, str]) -> None:
    with Terminal("pull", "org/tiny", **settings) as shell:
        assert f"{len(FILES)} files" in shell.wait_for("every digest checked")
        assert shell.leave() == 0


def test_rm_by_type_keeps_the_other(settings: dict[str, str], stub: StubHub) -> None:
    stub.repos["org/m"] = Repo({"m-Q4_0.gguf": b"GGUF" * 500, "m-Q8_0.gguf": b"GGUF" * 900})
    for kind in ("q4_0", "Q8_0"):
        assert penstock("pull", f"org/m:{kind}", **settings).returncode == 0
    assert penstock("rm", "org/m:Q8_0", **settings).stdout.startswith("org/m:Q8_0: removed, 3.")
    assert [line.split()[0] for line in penstock("list", **settings).stdout.splitlines()[1:]] == ["org/m:Q4_0"]
