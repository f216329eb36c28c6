"""Memory that weights are packed into: disjoint, aligned, placed; and huge pages."""

import re
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from tests.backend.reference import make_spec, random_weights, weight_map

from penstock.backend.cpu import CpuBackend, CpuOptions, huge_pages, make_pool
from penstock.backend.cpu.memory import HUGE_BYTES, Arena, place
from penstock.core import ConfigError
from penstock.formats import CODE_FORMATS, Layout, PackedMatrix, RawTensor, Storage, num_bytes, pack

SIZES = [1, 63, 64, 65, 4096, 100_000, 7]
LARGE = 2 * 8 * HUGE_BYTES  # worth huge pages where there are two nodes


@pytest.mark.parametrize("nodes", [1, 2])
def test_arrays_are_zero_aligned_and_apart(nodes):
    sizes = [*SIZES, LARGE, 5, LARGE + 1, 9]
    arena = Arena(Arena.room(sizes, nodes), nodes)
    arrays = [arena.take(size) for size in sizes]
    for index, array in enumerate(arrays):
        assert array.ctypes.data % 64 == 0 and array.size == sizes[index]
        assert not array[: 1 << 16].any()
        array[: 1 << 16] = index + 1
    for index, array in enumerate(arrays):
        assert (array[: 1 << 16] == index + 1).all()
    large = [array.ctypes.data % HUGE_BYTES for array in arrays if array.size >= LARGE]
    assert nodes == 1 or large == [0, 0]


def test_more_than_the_machine_has_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="no memory for 4,611,686,018,427,387,904 bytes of weights"):
        Arena(2**62)


def huge_around(address: int) -> bool:
    """Whether the map that holds an address was marked for huge pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="maps are read from /proc")
def test_huge_pages_are_asked_for():
    arena = Arena(8 * HUGE_BYTES)
    marked = huge_around(arena.take(100).ctypes.data)
    assert marked == Path("/sys/kernel/mm/transparent_hugepage").is_dir()
    arena = Arena(Arena.room([100, LARGE], 2), 2)
    assert not huge_around(arena.take(100).ctypes.data)  # control: too small for two nodes
    assert huge_around(arena.take(LARGE).ctypes.data) == marked


def huge_bytes() -> int:
    """Bytes of all maps that are marked for huge pages."""
    total = size = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Size:"):
            size = int(line.split()[1]) * 1024
        elif line.startswith("VmFlags:") and "hg" in line.split():
            total += size
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="maps are read from /proc")
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="the system has no huge pages")
def test_huge_pages_are_asked_for_the_kv():
    spec = make_spec()
    weights = weight_map(random_weights(spec))
    backend = CpuBackend(spec, weights, CpuOptions(max_model_tokens=512, max_running=2, max_step_tokens=64, threads=1))
    before = huge_bytes()  # control: weights of floats ask for none, and nothing is allocated yet
    pages = -(-4 * HUGE_BYTES // backend.kv_groups[0].bytes_per_page)
    backend.allocate((pages,))
    assert huge_bytes() - before >= pages * backend.kv_groups[0].bytes_per_page
    backend.close()
    del backend  # the pages go with the decoder
    assert huge_bytes() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("always [madvise] never\n", "asked for (the system's setting is madvise)"),
        ("[always] madvise never\n", "asked for (the system's setting is always)"),
        ("always madvise [never]\n", "none (the system's setting is never; madvise grants what is asked for)"),
        ("nonsense", "none (the system's setting is unreadable; madvise grants what is asked for)"),
        (None, "none (the system has no transparent huge pages)"),
    ],
)
def test_what_the_system_grants_is_said(tmp_path, text, said):
    if text is not None:
        folder = tmp_path / "sys/kernel/mm/transparent_hugepage"
        folder.mkdir(parents=True)
        (folder / "enabled").write_text(text)
    assert huge_pages(tmp_path) == said


def matrices() -> dict[str, PackedMatrix]:
    rng, found = np.random.default_rng(3), {}
    for storage in (*CODE_FORMATS, Storage.F32, Storage.BF16):
        shape = (333, 512)
        data = rng.integers(0, 256, num_bytes(storage, shape), dtype=np.uint8)
        found[storage.value] = pack(RawTensor(storage.value, storage, shape, data))
    return found


def test_placed_copies_have_the_same_bytes():
    pool, before = make_two_nodes(), matrices()
    after = place(before, pool)
    assert after.keys() == before.keys()
    for name, matrix in before.items():
        for field in fields(PackedMatrix):
            old, new = getattr(matrix, field.name), getattr(after[name], field.name)
            if not isinstance(old, np.ndarray):
                assert old == new
                continue
            assert new.tobytes() == old.tobytes()
            assert field.name == "codebook" or not np.shares_memory(new, old)


def make_two_nodes():
    pool = type(make_pool(1))([(0, 2, [0]), (1, 1, [0])])
    assert (pool.threads, pool.nodes) == (3, 2)
    return pool


def test_float_layouts_are_cut_by_rows():
    matrix = matrices()[Storage.F32.value]
    assert matrix.layout is Layout.F32
    assert place({"a": matrix}, make_two_nodes())["a"].codes.tobytes() == matrix.codes.tobytes()
