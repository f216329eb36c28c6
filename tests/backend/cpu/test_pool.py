"""One pool for several backends: the same bits, and turns."""

import threading

import pytest
from tests.backend.driver import GREEDY, Driver
from tests.backend.reference import make_spec, random_weights, weight_map

from penstock.backend.cpu import CpuBackend, CpuOptions, default_threads, make_pool
from penstock.core import ConfigError

SPEC = make_spec()
WEIGHTS = weight_map(random_weights(SPEC))
OPTIONS = CpuOptions(max_model_tokens=64, max_running=2, max_step_tokens=64, page_tokens=16, kv_type="f32")


def answer(pool, steps=12):
    backend = CpuBackend(SPEC, WEIGHTS, OPTIONS, pool)
    backend.allocate((8,))
    driver = Driver(backend)
    driver.open(0, (3, 1, 4, 1, 5), sampling=GREEDY)
    tokens = [*driver.step(driver.row(0, 0, (3, 1, 4, 1, 5))).rows[0].tokens]
    for position in range(5, 5 + steps):
        tokens += driver.step(driver.row(0, position, tokens[-1:])).rows[0].tokens
    backend.close()
    return tokens


def test_backends_share_a_pool_and_take_turns():
    pool, want, found = make_pool(3), answer(None), []
    workers = [threading.Thread(target=lambda: found.append(answer(pool))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [want] * 4


def test_a_backend_says_which_pool_it_uses():
    pool = make_pool(2)
    first = CpuBackend(SPEC, WEIGHTS, OPTIONS, pool)
    assert first.pool is pool
    assert CpuBackend(SPEC, WEIGHTS, OPTIONS, first.pool).threads == 2


def test_another_number_of_threads_than_the_pool_has_is_refused():
    options = CpuOptions(max_model_tokens=64, max_running=2, max_step_tokens=64, threads=3)
    with pytest.raises(ConfigError, match=r"threads is 3.*has 2"):
        CpuBackend(SPEC, WEIGHTS, options, make_pool(2))


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_impossible_numbers_are_refused(threads):
    with pytest.raises(ConfigError, match=f"threads is {threads}; it must be 1 to 1024"):
        make_pool(threads)


def test_none_takes_what_the_process_may_use():
    assert make_pool().threads == default_threads()
