"""Kernels here are made for Triton's interpreter: the variable is set while they are imported and while a test runs.

Products are summed in the order that a matrix instruction has, K ascending for each element: numpy's own product picks
an order by the shapes of the tiles, so that bits would tell of numpy.
"""

import os
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="kernels compute on torch tensors")

# Kernels made for a GPU may be here already.
for _name in [each for each in sys.modules if each.startswith("penstock.backend.torch.triton")]:
    del sys.modules[_name]

_BEFORE = os.environ.get("TRITON_INTERPRET")
os.environ["TRITON_INTERPRET"] = "1"
try:
    pytest.importorskip("triton", reason="kernels are written in Triton")
    from triton.runtime import interpreter

    import penstock.backend.torch.triton  # noqa: F401
finally:
    if _BEFORE is None:
        del os.environ["TRITON_INTERPRET"]
    else:
        os.environ["TRITON_INTERPRET"] = _BEFORE


def ordered_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
    """What the interpreter's create_dot computes, one k after the other; bit patterns of bf16 as numbers like it."""
    total = d.data.copy()
    left, right = a.data.astype(total.dtype), b.data.astype(total.dtype)
    for k in range(left.shape[-1]):
        total += left[..., :, k : k + 1] * right[..., k : k + 1, :]
    return interpreter.TensorHandle(total, d.dtype.scalar)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", ordered_dot)
    with np.errstate(all="ignore"):  # the interpreter computes masked lanes too
        yield
