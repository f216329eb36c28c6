"""Pages of a mapped file are let go and come back."""

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from penstock.formats import drop_pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident pages are read from /proc")
SIZE = 64 * mmap.PAGESIZE


def resident(address):
    """Resident bytes of the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first:
            low, _, high = first.partition("-")
            inside = int(low, 16) <= address < int(high, 16)
        elif inside and first == "Rss:":
            return int(line.split()[1]) * 1024
    raise AssertionError("no such mapping")


@pytest.fixture
def content(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8).tobytes())
    return path


def mapped(path, access=mmap.ACCESS_READ):
    with path.open("r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=access), np.uint8)


def test_pages_are_let_go_and_come_back(content):
    data = mapped(content)
    want = data.tobytes()
    assert resident(data.ctypes.data) == SIZE
    assert drop_pages(data) == SIZE
    assert resident(data.ctypes.data) == 0
    assert data.tobytes() == want


@pytest.mark.parametrize(("first", "end"), [(1, SIZE), (mmap.PAGESIZE - 1, 3 * mmap.PAGESIZE + 1), (5000, 30_001)])
def test_only_whole_pages_inside_a_view(content, first, end):
    data = mapped(content)
    data.sum()
    view = data[first:end].reshape(1, -1).reshape(-1)
    want = -(-first // mmap.PAGESIZE), end // mmap.PAGESIZE
    assert drop_pages(view) == (want[1] - want[0]) * mmap.PAGESIZE
    assert resident(data.ctypes.data) == SIZE - (want[1] - want[0]) * mmap.PAGESIZE


def test_less_than_a_page_is_left(content):
    data = mapped(content)
    assert drop_pages(data[10 : mmap.PAGESIZE + 9]) == 0


def test_memory_that_is_no_file_keeps_its_values():
    data = np.full(SIZE, 7, np.uint8)
    data.flags.writeable = False
    assert drop_pages(data) == 0
    assert (data == 7).all()


def test_a_private_copy_keeps_its_changes(content):
    data = mapped(content, mmap.ACCESS_COPY)
    data[:] = 9
    data.flags.writeable = False
    assert drop_pages(data) == 0
    assert (data == 9).all()
