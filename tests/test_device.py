"""Which device a start takes: what is asked, what there is, and one clear line where they do not meet."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock import assemble
from penstock.assemble import LoadOptions, choose_device, load
from penstock.core import ConfigError


def ask(**choices: object) -> tuple[str, list[str]]:
    """The device and the lines that were said."""
    said: list[str] = []
    return choose_device(LoadOptions(**choices), said.append), said  # type: ignore[arg-type]


def no_gpu_for_torch() -> bool:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    return not torch.cuda.is_available()


@pytest.mark.parametrize(
    ("choices", "message", "hint"),
    [
        ({"device": "tpu"}, "device is 'tpu'; auto, cpu, cuda exist", None),
        ({"device": "cpu", "fast_nondeterministic": True}, "fast_nondeterministic is set", "--device cuda"),
        ({"device": "cuda", "threads": 2}, "threads is 2 and the device is a GPU", "leave threads out"),
        ({"device": "cuda", "isa": "avx2"}, "isa is 'avx2' and the device is a GPU", "leave isa out"),
        ({"device": "cuda", "numa": "off"}, "numa is 'off' and the device is a GPU", "leave numa out"),
    ],
)
def test_choices_that_do_not_meet_are_refused(choices: dict[str, object], message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        ask(**choices)
    assert hint is None or hint in str(refusal.value.hint)


def test_cuda_without_a_gpu_is_one_clear_line() -> None:
    if not no_gpu_for_torch():
        pytest.skip("a GPU is here")
    with pytest.raises(ConfigError, match=r"device is 'cuda'; PyTorch \S+ sees 0 GPUs") as refusal:
        load(LoadOptions(device="cuda"))
    assert "--device cpu" in str(refusal.value.hint)


def test_cuda_without_pytorch_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="PyTorch is not installed") as refusal:
        ask(device="cuda")
    assert "penstock[gpu]" in str(refusal.value.hint)


def test_auto_takes_the_cpu_and_says_why_a_gpu_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "has_gpu", lambda: False)
    assert ask() == ("cpu", [])
    monkeypatch.setattr(assemble, "has_gpu", lambda: True)
    if no_gpu_for_torch():
        device, [line] = ask()
        assert device == "cpu" and "PyTorch sees none" in line
    monkeypatch.setattr(assemble, "find_spec", lambda name: None)
    device, [line] = ask()
    assert device == "cpu" and "penstock[gpu]" in line


def test_auto_takes_a_gpu_that_pytorch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu_for_torch()
    from penstock.backend import torch as room

    monkeypatch.setattr(assemble, "has_gpu", lambda: True)
    monkeypatch.setattr(room, "count_gpus", lambda: 1)
    monkeypatch.setattr(room, "open_device", lambda name: None)
    assert ask() == ("cuda", [])
    assert ask(fast_nondeterministic=True) == ("cuda", [])


def test_a_start_on_the_cpu_imports_no_torch() -> None:
    code = (
        "import sys; from penstock import assemble; assemble.has_gpu = lambda: False;"
        "assert assemble.choose_device(assemble.LoadOptions(), print) == 'cpu';"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
