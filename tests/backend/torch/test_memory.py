"""Memory of the device: what KV may take of it, and a step for which it does not suffice."""

import pytest
from tests.backend.driver import Driver, make_backend
from tests.backend.reference import make_spec, random_weights, weight_map

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from penstock.backend.torch import TorchOptions
from penstock.backend.torch import backend as room
from penstock.kv import KvBudget

SPEC = make_spec()
WEIGHTS = weight_map(random_weights(SPEC))
PROMPT = list(range(1, 40))


def first_token(backend):
    driver = Driver(backend)
    driver.open(0, PROMPT)
    return driver.step(driver.row(0, 0, PROMPT)).rows[0].tokens


@pytest.mark.parametrize("fast", [False, True])
def test_a_step_that_runs_out_of_memory_is_computed_again_in_small_blocks(monkeypatch, fast):
    shapes = []

    def forward(runner, slots, shares, shape, check):
        shapes.append(shape)
        if len(shapes) == 1:
            raise torch.OutOfMemoryError("no memory")
        return plain(runner, slots, shares, shape, check)

    plain = room.forward
    expected = first_token(make_backend(SPEC, WEIGHTS, kind="torch"))
    monkeypatch.setattr(room, "forward", forward)
    assert first_token(make_backend(SPEC, WEIGHTS, kind="torch", fast_nondeterministic=fast)) == expected
    assert [shape.fast for shape in shapes] == [fast, False]


def test_a_step_that_never_fits_raises(monkeypatch):
    def forward(*args):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(room, "forward", forward)
    with pytest.raises(torch.OutOfMemoryError):
        first_token(make_backend(SPEC, WEIGHTS, kind="torch"))


def test_kv_gets_what_a_step_leaves_free(monkeypatch):
    backend = make_backend(SPEC, WEIGHTS, kind="torch")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 << 30, 16 << 30))
    assert 6 << 30 < backend.free_bytes() < (8 << 30) - room.RESERVE
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 20, 16 << 30))
    assert backend.free_bytes() == 0


def test_a_wider_model_keeps_more_free_for_a_step():
    options = TorchOptions(512, 16, 256)
    small = room.step_bytes(SPEC, options, 64)
    assert small < room.step_bytes(make_spec(vocab=100_000), options, 64)
    assert small < room.step_bytes(SPEC, TorchOptions(512, 16, 65536), 64)
    assert small < room.step_bytes(SPEC, TorchOptions(512, 16, 256, fast_nondeterministic=True), 64)


def test_the_budget_of_a_device_is_all_taken_and_named():
    assert KvBudget(5 * 10**9, 5 * 10**9, "the GPU").num_bytes == 5 * 10**9
    assert KvBudget(5 * 10**9, 5 * 10**9, "the GPU").source == "5 GB free on the GPU"
    assert KvBudget(5 * 10**9, 2 * 10**9).source == "--kv-bytes 2 GB"
