"""The reference backend's bits: whatever the weights, the KV and the threads; and a control that has other ones."""

import numpy as np
import pytest
from tests.backend.driver import Driver, make_backend
from tests.backend.reference import make_spec, random_weights, weight_map

from penstock.core import NO_OUTPUT
from penstock.formats import Storage

pytest.importorskip("torch", reason="PyTorch is not installed")

MIXED = make_spec(num_experts=4, experts_per_token=2, norm_topk=True, sinks=True, softcap=20.0, hidden=96, vocab=1003)
PROMPT = [int(t) for t in np.random.default_rng(5).integers(0, MIXED.vocab, 60)]
ARRAYS = random_weights(MIXED, seed=2)
KINDS = [(Storage.F32, "f32"), (Storage.BF16, "bf16"), (Storage.F32, "int8")]


def alone(backend, chunks=()):
    driver = Driver(backend)
    driver.open(0, PROMPT)
    return driver.prefill(0, PROMPT, chunks)[-1][1][-1].tobytes()


def among_others(backend, mates=5):
    """The prompt's second part beside `mates` other prompts."""
    driver = Driver(backend)
    driver.open(0, PROMPT)
    driver.step(driver.row(0, 0, PROMPT[:23], NO_OUTPUT))
    rows = []
    for slot in range(1, 1 + mates):
        driver.open(slot, PROMPT[slot : slot + 7 * slot])
        rows.append(driver.row(slot, 0, PROMPT[slot : slot + 7 * slot]))
    rows.insert(2, driver.row(0, 23, PROMPT[23:]))
    return driver.step(*rows, logits=True)[1][2].tobytes()


@pytest.mark.parametrize(("storage", "kv_type"), KINDS)
def test_a_rows_bits_are_its_own(storage, kv_type):
    weights = weight_map(ARRAYS, storage)

    def backend(threads=1):
        return make_backend(MIXED, weights, kind="torch", kv_type=kv_type, threads=threads)

    expected = alone(backend())
    assert alone(backend(), chunks=(1, 30)) == expected
    assert among_others(backend()) == expected
    assert alone(backend(threads=2)) == expected


def test_control_products_of_whole_steps_have_other_bits():
    """What --fast-nondeterministic gives up: the library's order of sums follows the number of rows."""
    weights = weight_map(ARRAYS)

    def backend():
        return make_backend(MIXED, weights, kind="torch", fast_nondeterministic=True)

    found = {alone(backend()), alone(backend(), chunks=(1, 30)), alone(backend(), chunks=[1] * 59)}
    assert len(found) > 1
    assert backend().tier.endswith("fast-nondeterministic")
    values = [np.frombuffer(bits, np.float32) for bits in found]
    assert all(np.abs(values[0] - other).max() < 1e-3 for other in values[1:])
