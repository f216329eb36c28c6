"""The thread pool under contention, forks and exits; and how many threads it should have."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from penstock import _native

WEIGHTS = np.random.default_rng(0).standard_normal((320, 64)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)


def compute(pool):
    w = _native.Matrix(0, 320, 64, WEIGHTS.view(np.uint8).reshape(-1))
    y = np.zeros((3, 320), np.float32)
    _native.linear(pool, _native.kernels(), w, X, None, y)
    return y


@pytest.mark.parametrize("threads", [1, 2, 5, 16])
def test_every_index_is_computed_every_time(threads):
    pool = _native.Pool(threads)
    assert pool.threads == threads
    want = compute(_native.Pool(1))
    for _ in range(200):
        np.testing.assert_array_equal(compute(pool), want)


def test_callers_take_turns():
    pool, want, wrong = _native.Pool(3), compute(_native.Pool(1)), []

    def work():
        wrong.extend(True for _ in range(100) if not np.array_equal(compute(pool), want))

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_pools_come_and_go():
    before = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0
    first = compute(_native.Pool(4))
    for _ in range(50):
        assert np.array_equal(compute(_native.Pool(4)), first)
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/task")) == before


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**31 - 1])
def test_senseless_thread_counts_are_refused(threads):
    with pytest.raises(ValueError, match="1 to 1024"):
        _native.Pool(threads)


SCHEDULED = Path("/proc/self/schedstat")


def computed_ns(task):
    """Nanoseconds that a thread of this process has spent on a processor."""
    return int(Path(f"/proc/self/task/{task}/schedstat").read_text().split()[0])


@pytest.mark.skipif(not SCHEDULED.exists(), reason="the system does not say what a thread has computed")
def test_workers_without_work_park():
    """Of a fifth of a second they may spin a few milliseconds away, be the machine ever so busy with others."""
    before = set(os.listdir("/proc/self/task"))
    pool = _native.Pool(2)
    [worker] = set(os.listdir("/proc/self/task")) - before

    def computed_while(act):
        begin = computed_ns(worker)
        act()
        return computed_ns(worker) - begin

    def keep_busy():
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            pool.shares(256)

    busy, windows = 0, 0
    while busy < 20e6 and windows < 50:  # control: with work it computes, however little others leave it at a time
        busy, windows = busy + computed_while(keep_busy), windows + 1
    assert busy >= 20e6
    idle = [computed_while(lambda: time.sleep(0.2))]  # this one may hold the end of the work before
    while idle[-1] >= 5e6 and len(idle) < 10:
        idle.append(computed_while(lambda: time.sleep(0.2)))
    assert idle[-1] < 5e6
    assert set(pool.shares(256)) <= {0, 1}


SCRIPT = """
import os, sys
import numpy as np
from penstock import _native
pool = _native.Pool(3)
w = _native.Matrix(0, 320, 64, np.ones(320 * 64, np.float32).view(np.uint8))
def compute():
    y = np.zeros((3, 320), np.float32)
    _native.linear(pool, _native.kernels(), w, np.ones((3, 64), np.float32), None, y)
    return bool((y == 64).all())
assert compute()
child = os.fork()
if child == 0:
    ok = compute()
    del pool
    os._exit(0 if ok else 3)
assert os.waitpid(child, 0)[1] == 0
assert compute()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_computes_alone_and_exit_is_clean():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "done\n", "")


@pytest.fixture
def machine(tmp_path):
    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return str(tmp_path)

    return write


def allowed():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def test_affinity_counts_where_nothing_else_is_known(machine):
    assert _native.default_threads(machine({})) == allowed()


@pytest.mark.parametrize(
    "files",
    [
        {"sys/fs/cgroup/cpu.max": "100000 100000\n"},
        {"sys/fs/cgroup/cpu.max": "50000 100000\n"},
        {"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/box/cpu.max": "100000 100000\n"},
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "90000 100000\n",
        },
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
        },
    ],
)
def test_cgroup_limits_count(machine, files):
    assert _native.default_threads(machine(files)) == 1


@pytest.mark.parametrize("text", ["max 100000", "", "-1 100000", "1e99 1", "nan nan", "100000", "100000 0", "9" * 5000])
def test_no_or_senseless_limit_counts_for_nothing(machine, text):
    assert _native.default_threads(machine({"sys/fs/cgroup/cpu.max": text})) == allowed()


def test_processors_of_one_core_count_once(machine):
    siblings = {f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": "0-9999\n" for i in range(256)}
    assert _native.default_threads(machine(siblings)) == 1


# --- Nodes -----------------------------------------------------------------------------------------------------------


def nodes(*threads):
    """A pool whose nodes all lie on processors that this process has."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    return _native.Pool([(i, count, [cpus[i % len(cpus)]]) for i, count in enumerate(threads)])


def static_shares(count, *threads):
    """Thread of each index: nodes by their numbers of threads, each evenly among its own."""
    total, before, found = sum(threads), 0, []
    for own in threads:
        size = count * (before + own) // total - count * before // total
        found += [before + t for t in range(own) for _ in range(size // own + (t < size % own))]
        before += own
    return found


@pytest.mark.parametrize("threads", [(1, 1), (2, 3), (1, 2, 4), (8, 8)])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 16, 101])
def test_without_stealing_every_index_runs_on_its_own_thread(threads, count):
    pool = nodes(*threads)
    assert (pool.threads, pool.nodes) == (sum(threads), len(threads))
    for _ in range(3):
        assert pool.shares(count, own=True) == static_shares(count, *threads)


def test_with_stealing_every_index_runs_once_on_some_thread():
    pool = nodes(2, 1)
    for _ in range(200):
        assert set(pool.shares(50)) <= {0, 1, 2} and len(pool.shares(50)) == 50


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_threads_of_nodes_are_bound_and_the_caller_gets_its_affinity_back():
    cpus, before = sorted(os.sched_getaffinity(0)), set(os.listdir("/proc/self/task"))
    pool = _native.Pool([(0, 2, cpus[:1]), (1, 2, cpus[-1:])])
    pool.shares(64, own=True)  # after this every thread has begun
    assert os.sched_getaffinity(0) == set(cpus)
    bound = sorted(sorted(os.sched_getaffinity(int(task))) for task in set(os.listdir("/proc/self/task")) - before)
    assert bound == [cpus[:1], cpus[-1:], cpus[-1:]]
    free = set(os.listdir("/proc/self/task"))
    one = _native.Pool([(0, 3, cpus[:1])])  # control: with one node nothing is bound
    one.shares(64)
    for task in set(os.listdir("/proc/self/task")) - free:
        assert os.sched_getaffinity(int(task)) == set(cpus)


def test_processors_that_the_system_refuses_change_nothing():
    pool = _native.Pool([(0, 1, [1023]), (1, 2, [4095])])
    assert pool.shares(9, own=True) == static_shares(9, 1, 2)
    np.testing.assert_array_equal(compute(pool), compute(_native.Pool(1)))


@pytest.mark.parametrize("threads", [(1, 1), (3, 1), (1, 2, 2), (7, 9)])
def test_products_have_the_same_bits_on_any_nodes(threads):
    pool, want = nodes(*threads), compute(_native.Pool(1))
    for _ in range(50):
        np.testing.assert_array_equal(compute(pool), want)


@pytest.mark.parametrize(
    ("layout", "match"),
    [
        ([], "threads is 0"),
        ([(0, 0, [0])], "threads of a node are 0"),
        ([(0, 1, [])], "no processors"),
        ([(-1, 1, [0])], "node -1"),
        ([(1024, 1, [0])], "node 1024"),
        ([(0, 1000, [0]), (1, 1000, [0])], "threads is 2000"),
    ],
)
def test_senseless_layouts_are_refused(layout, match):
    with pytest.raises(ValueError, match=match):
        _native.Pool(layout)
