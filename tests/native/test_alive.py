"""Nothing native outlives what owns it, and an interpreter that ends first says nothing."""

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
from tests.backend.driver import Driver, make_backend
from tests.backend.reference import make_spec, random_weights, weight_map

from penstock import _native

SPEC = make_spec()
ARRAYS = random_weights(SPEC)
ROOT = Path(__file__).parents[2]


def test_a_closed_backend_leaves_nothing():
    gc.collect()
    before = _native.alive()
    driver = Driver(make_backend(SPEC, weight_map(ARRAYS), threads=2))
    driver.open(0, (1, 2, 3))
    driver.step(driver.row(0, 0, (1, 2, 3)))
    decoders, pools, matrices = _native.alive()
    assert (decoders, pools) == (before[0] + 1, before[1] + 1)
    assert matrices > before[2]
    driver.backend.close()
    del driver
    gc.collect()
    assert _native.alive() == before


def test_control_a_kept_matrix_is_counted():
    values = np.zeros(64 * 32, np.float32).view(np.uint8)
    before = _native.alive()[2]
    kept = _native.Matrix(0, 64, 32, values)
    assert _native.alive()[2] == before + 1
    del kept
    assert _native.alive()[2] == before


def test_an_interpreter_that_ends_with_a_backend_open_is_quiet():
    script = """
import ctypes
from tests.backend.driver import Driver, make_backend
from tests.backend.reference import make_spec, random_weights, weight_map
spec = make_spec()
backend = make_backend(spec, weight_map(random_weights(spec)), threads=2)
driver = Driver(backend)
driver.open(0, (1, 2))
driver.step(driver.row(0, 0, (1, 2)))
ctypes.pythonapi.Py_IncRef(ctypes.py_object(backend._decoder))  # lives on when the interpreter is gone
"""
    path = [str(ROOT), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n" + script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
