"""Environments and forms: pins are exact, failures have reasons, what is there is found, and servers' commands fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peers import checkpoints, environment, served
from benchmarks.peers.child import PeerFailed
from benchmarks.peers.environment import EXTRAS, PARTS, Peers, pins, prepare, reason, said, version_of
from benchmarks.peers.session import Session, size_of
from benchmarks.peers.works import CONTENDERS, LLAMA, Contender

from penstock.model import open_checkpoint


def contender(name: str) -> Contender:
    return next(each for each in CONTENDERS if each.name == name)


def test_every_part_of_every_peer_is_pinned_to_one_version() -> None:
    for package, parts in PARTS.items():
        known = pins(EXTRAS.get(package, "peers"))
        assert package in parts
        assert all("==" in known[part] for part in parts)
    assert pins("peers")["torch"] == pins("peers-vllm")["torch"]


def test_a_command_that_fails_says_its_error_not_its_last_line(tmp_path: Path) -> None:
    script = "print('ERROR: no matching wheel'); print('try later'); raise SystemExit(1)"
    assert said([sys.executable, "-c", script], tmp_path / "log") == "ERROR: no matching wheel"
    assert said([sys.executable, "-c", "print('error, but fine')"], tmp_path / "log") is None
    assert said([tmp_path / "nothing"], tmp_path / "log") == f"{tmp_path / 'nothing'}: No such file or directory"
    (tmp_path / "quiet").write_text("\n")
    assert reason(tmp_path / "quiet") == "it said nothing."


def test_an_environment_that_is_given_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    monkeypatch.setenv("PEERS_VENV", str(tmp_path))
    monkeypatch.setattr(environment, "install", lambda *_: pytest.fail("it was changed"))
    monkeypatch.setitem(PARTS, "no-such-package", ("no-such-package",))
    peers = prepare(["no-such-package"], lambda line: None)
    assert peers.failed == {"no-such-package": f"is not installed in {tmp_path}"} and not peers.python


def test_a_peer_that_is_not_installed_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PEERS_VENV", raising=False)
    monkeypatch.setattr(environment, "FOLDER", tmp_path)
    monkeypatch.setattr(environment, "is_pinned", lambda python, package: package == "transformers")
    monkeypatch.setattr(environment, "install", lambda folder, package: "ERROR: no wheel")
    monkeypatch.setattr(environment, "version_of", lambda python, package: "1.0")
    peers = prepare(["llama-cpp-python", "transformers"], lambda line: None)
    assert peers.failed == {"llama-cpp-python": "ERROR: no wheel"}
    assert peers.versions == {"transformers": "1.0"}


def test_versions_are_those_of_the_environment() -> None:
    assert version_of(Path(sys.executable), "pytest") == pytest.__version__
    assert version_of(Path(sys.executable), "no-such-package") is None
    assert version_of(Path("/no/such/python"), "pytest") is None


def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1}
    small |= {"head_dim": 32, "vocab_size": 300, "num_hidden_layers": 1, "eos_token_id": 2, "bos_token_id": 1}
    for name, value in small.items():
        monkeypatch.setitem(checkpoints.SHAPE, name, value)


def test_forms_come_from_one_checkpoint_and_failures_name_the_maker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny(monkeypatch)
    monkeypatch.setattr(checkpoints, "FOLDER", tmp_path)
    names = ("penstock bf16", "penstock q4_0", "transformers f32", "OpenVINO batching int8")
    peers = Peers(python={"openvino-genai": Path(sys.executable)}, failed={LLAMA: "no compiler"})
    forms = checkpoints.prepare([contender(name) for name in names], False, peers, lambda line: None)
    assert set(forms.failed) == {"q4_0.gguf", "openvino-int8"}
    assert "llama-cpp-python, which failed: no compiler" in forms.failed["q4_0.gguf"]
    assert forms.path(contender("transformers f32")) == tmp_path / "Qwen3-0.6B/safetensors"
    one, other = (open_checkpoint(forms.folder / name) for name in ("safetensors", "bf16.gguf"))
    for place, ref in one.weights.tensors.items():
        if len(ref.tensor.shape) == 2 and "attn" not in place:  # rows of q and k are stored in another order
            assert bytes(ref.tensor.data) == bytes(other.weights.tensors[place].tensor.data)
    assert size_of(forms.folder / "safetensors") > size_of(forms.folder / "safetensors/config.json") > 0


def test_a_contender_whose_package_or_form_failed_is_refused(tmp_path: Path) -> None:
    forms = checkpoints.Forms(tmp_path, {"q4_0.gguf": "could not be made"})
    room: dict[str, int] = {"max_streams": 1, "max_tokens": 8, "total_tokens": 8}
    with Session(Peers(failed={LLAMA: "no compiler"}), Path(sys.executable), forms, room, 2, 1.0) as session:
        for name, why in (("llama.cpp q4_0", "not installed: no compiler"), ("penstock q4_0", "could not be made")):
            with pytest.raises(PeerFailed, match=why):
                session.ask(contender(name), {"do": "prefill"})


@pytest.mark.parametrize("work", served.SERVED_WORKS + served.QUICK_SERVED)
def test_every_server_has_room_for_all_clients(work: served.ServedWork) -> None:
    peers = Peers(python={LLAMA: Path("python")}, server=Path("llama-server"))
    needed = work.prefix_tokens + work.prompt_tokens + work.output_tokens
    lines: dict[str, Any] = {
        name: served.command(name, Path("m.gguf"), 1, work, 2, peers)
        for name in (served.PENSTOCK, served.LLAMA_SERVER, served.LLAMA_PYTHON)
    }

    def flag(server: str, name: str) -> int:
        return int(lines[server][lines[server].index(name) + 1])

    assert flag(served.LLAMA_SERVER, "-np") == work.users
    assert flag(served.LLAMA_SERVER, "-c") // work.users > needed
    assert flag(served.PENSTOCK, "--max-model-tokens") > needed
    assert flag(served.LLAMA_PYTHON, "--n_ctx") > needed
    assert flag(served.PENSTOCK, "--threads") == flag(served.LLAMA_SERVER, "-t") == 2


def test_a_server_that_is_not_there_says_why() -> None:
    with pytest.raises(PeerFailed, match="no compiler"):
        peers = Peers(server_failed="no compiler", failed={LLAMA: "no compiler"})
        served.command(served.LLAMA_SERVER, Path("m"), 1, served.SERVED_WORKS[0], 2, peers)
    with pytest.raises(PeerFailed, match="not installed: no compiler"):
        served.command(served.LLAMA_PYTHON, Path("m"), 1, served.SERVED_WORKS[0], 2, peers)


def test_a_server_that_dies_says_its_last_line(tmp_path: Path) -> None:
    line = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with (
        pytest.raises(PeerFailed, match="died with 1: no such model"),
        served.started(line, "http://127.0.0.1:9", 2, tmp_path / "log"),
    ):
        pass


def test_one_that_can_not_be_loaded_is_tried_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "q4_0.gguf").write_bytes(b"no model")
    forms = checkpoints.Forms(tmp_path)
    room = {"max_streams": 1, "max_tokens": 8, "total_tokens": 8}
    with Session(Peers(), Path(sys.executable), forms, room, 1, 20.0) as session:
        for _ in range(2):
            with pytest.raises(PeerFailed, match="ModelFileError"):
                session.ask(contender("penstock q4_0"), {"do": "prefill", "tokens": 4, "seed": 1})
            monkeypatch.setattr(Session, "_open", lambda *_: pytest.fail("it was tried again"))
    assert not session.loaded
