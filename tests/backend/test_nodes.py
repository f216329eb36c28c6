"""A machine of several nodes, forced: the same bits as on one, from weights that lie on the nodes that compute them."""

import mmap

import numpy as np
import pytest
from tests.backend.driver import Driver, await_pack_cache, logits_of_every_position
from tests.backend.reference import make_spec, random_weights, weight_map
from tests.backend.test_packing import SPEC, coded_model, tokens_of

from penstock.backend.cpu import CpuBackend, CpuOptions, Pool, make_pool, packing
from penstock.core import ConfigError
from penstock.formats import Storage

LAYOUTS = [(1, 1), (3, 1), (1, 2, 2), (4, 4)]
MIXTURE = make_spec(num_experts=6, experts_per_token=4, shared_intermediate=40, shared_gate=True)


def pool_of(*threads):
    return Pool([(node, count, [0]) for node, count in enumerate(threads)])


def logits(spec, weights, pool, chunks=(), pack_cache=False, count=24):
    options = CpuOptions(
        max_model_tokens=512, max_running=4, max_step_tokens=256, page_tokens=16, kv_type="f32", pack_cache=pack_cache
    )
    backend = CpuBackend(spec, weights, options, pool)
    backend.allocate((32,) * len(backend.kv_groups))
    driver, tokens = Driver(backend), [token % spec.vocab for token in tokens_of(count)]
    if not chunks:
        return logits_of_every_position(driver, 0, tokens)
    driver.open(0, tokens)
    return driver.prefill(0, tokens, list(chunks))[-1][1]


@pytest.mark.parametrize("threads", LAYOUTS)
@pytest.mark.parametrize("storage", [Storage.Q4_0, Storage.Q4_K, None])
def test_bits_are_those_of_one_node(threads, storage):
    weights = weight_map(random_weights(SPEC)) if storage is None else coded_model(storage)[0]
    for chunks in ((), (7, 1)):
        want = logits(SPEC, weights, make_pool(1), chunks)
        assert logits(SPEC, weights, pool_of(*threads), chunks).tobytes() == want.tobytes()


@pytest.mark.parametrize("threads", LAYOUTS)
def test_mixtures_have_the_bits_of_one_node(threads):
    weights = weight_map(random_weights(MIXTURE))
    for chunks in ((), (100, 30)):
        want = logits(MIXTURE, weights, make_pool(1), chunks, count=200 if chunks else 24)
        found = logits(MIXTURE, weights, pool_of(*threads), chunks, count=200 if chunks else 24)
        assert found.tobytes() == want.tobytes()


def test_a_refused_binding_is_said_once(caplog):
    pool = Pool([(0, 1, [0]), (1, 2, [1_000_000])])
    logits(SPEC, coded_model(Storage.Q4_0)[0], pool)
    assert pool.refusals >= 2 and "refused" in caplog.text and "--numa off" in caplog.text
    caplog.clear()
    logits(SPEC, coded_model(Storage.Q4_0)[0], make_pool(2, "off"))
    assert "refused" not in caplog.text  # the control


def test_a_shared_pool_of_several_nodes_cannot_be_off():
    options = CpuOptions(max_model_tokens=64, max_running=1, max_step_tokens=64, numa="off")
    with pytest.raises(ConfigError, match="bound to 2 nodes"):
        CpuBackend(SPEC, weight_map(random_weights(SPEC)), options, pool_of(1, 1))


def test_control_another_weight_changes_the_bits():
    one, other = (logits(SPEC, coded_model(storage)[0], pool_of(2, 1)) for storage in (Storage.Q4_0, Storage.Q8_0))
    assert one.tobytes() != other.tobytes()


def under(array):
    """What an array's memory belongs to."""
    while isinstance(array, np.ndarray | memoryview):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return array


def read_only(memory):
    return isinstance(memory, mmap.mmap) and memoryview(memory).readonly


@pytest.mark.parametrize("threads", [(3,), (2, 1)])
def test_a_mapped_cache_is_copied_to_several_nodes_and_read_in_place_by_one(tmp_path, threads):
    weights, _ = coded_model(Storage.Q4_K)
    pool = pool_of(*threads)
    first = logits(SPEC, weights, pool, pack_cache=str(tmp_path))
    await_pack_cache()
    packed = packing.pack_all(SPEC, weights, pool, str(tmp_path))
    assert {read_only(under(matrix.codes)) for matrix in packed.values()} == {len(threads) == 1}
    assert logits(SPEC, weights, pool, pack_cache=str(tmp_path)).tobytes() == first.tobytes()


def test_without_memory_for_a_copy_weights_stay_mapped_and_it_is_said(tmp_path, monkeypatch, caplog):
    weights, _ = coded_model(Storage.Q4_K)
    first = logits(SPEC, weights, make_pool(2), pack_cache=str(tmp_path))
    await_pack_cache()
    monkeypatch.setattr(packing, "_fits", lambda num_bytes: False)
    packed = packing.pack_all(SPEC, weights, pool_of(2, 1), str(tmp_path))
    assert all(read_only(under(matrix.codes)) for matrix in packed.values())
    assert len(caplog.records) == 1 and "stay where their file is mapped" in caplog.text
    assert logits(SPEC, weights, pool_of(2, 1), pack_cache=str(tmp_path)).tobytes() == first.tobytes()


def test_a_first_start_short_of_memory_maps_what_it_wrote(tmp_path, monkeypatch):
    weights, _ = coded_model(Storage.Q5_K)
    want = logits(SPEC, weights, make_pool(2))
    monkeypatch.setattr(packing, "_fits", lambda num_bytes: False)
    packed = packing.pack_all(SPEC, weights, make_pool(2), str(tmp_path))
    assert all(read_only(under(matrix.codes)) for matrix in packed.values())
    await_pack_cache()
    monkeypatch.undo()
    assert logits(SPEC, weights, make_pool(2), pack_cache=str(tmp_path)).tobytes() == want.tobytes()
