"""The thread pool under contention, forks and exits; and how many threads it should have."""

import os
import subprocess
import sys
import threading

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
