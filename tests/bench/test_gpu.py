import json
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from penstock.bench import gpu
from penstock.bench.gpu import measure_gpus

GOOD = {"name": "G", "copied_bytes": 4e9, "copy_s": [0.5] * 3, "operations": 6e9, "product_s": [0.25] * 3}


def printing(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"print({text!r})")


def test_limits_are_bytes_and_operations_over_the_median_time() -> None:
    (one,), why = measure_gpus(command=printing(json.dumps([GOOD])))
    assert (one.name, one.copy.value, one.matmul.value, one.copy.count, why) == ("G", 8.0, 24.0, 3, "")


def test_no_gpu_and_no_torch_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure_gpus(command=printing("[]")) == ((), "")
    monkeypatch.setattr(gpu, "COMMAND", ("/nowhere/at/all",))
    monkeypatch.setattr(gpu, "DRIVERS", ())
    assert measure_gpus() == ((), "")
    monkeypatch.setattr(gpu, "DRIVERS", ("/dev/null",))
    assert find_spec("torch") is None or measure_gpus()[1]  # the control
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert measure_gpus() == ((), "")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ((sys.executable, "-c", "raise SystemExit('no driver')"), "no driver"),
        ((sys.executable, "-c", "import os; os._exit(7)"), "exit code 7"),
        (("/nowhere/at/all",), "No such file"),
        (printing("words"), "can't be read: 'words"),
        (printing(json.dumps([GOOD | {"copy_s": [0.0]}])), "can't be read"),
        (printing(json.dumps([{"name": "G"}])), "can't be read"),
    ],
)
def test_a_gpu_that_can_not_be_measured_is_said(command: tuple[str, ...], why: str) -> None:
    found, said = measure_gpus(command=command)
    assert found == () and said.startswith("the GPU was not measured: ") and why in said


def test_the_process_runs_where_torch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(gpu, "DRIVERS", ("/dev/null",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found: Any = measure_gpus(quick=True)
    assert found == ((), "")
