"""The pack cache: what was stored comes back mapped; whatever else lies there is never believed."""

import hashlib
import json
import os
import stat
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.formats import CODE_FORMATS, LAYOUT_VERSION, Layout, PackCache, PackedMatrix, Storage
from penstock.formats import default_folder as cache_folder
from penstock.formats import default_max_bytes as cache_bytes
from penstock.formats.packed import empty

MIB = 1 << 20


def matrix(seed=0, n=40, k=512, storage=Storage.Q4_K):
    packed = empty(CODE_FORMATS[storage], n, k)
    for array in (packed.codes, packed.scales, packed.subscales, packed.mins):
        if array is not None:
            array[:] = np.random.default_rng(seed).integers(0, 256, array.size, dtype=np.uint8)
    return packed


def same(a, b):
    for name in PackedMatrix.__slots__:
        x, y = getattr(a, name), getattr(b, name)
        if not (np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y and type(x) is type(y)):
            return False
    return True


@pytest.fixture
def said():
    return []


@pytest.fixture
def cache(tmp_path, said):
    return PackCache(tmp_path / "packed", 64 * MIB, said.append)


def only_file(tmp_path):
    (path,) = (tmp_path / "packed").iterdir()
    return path


def test_what_was_stored_comes_back_mapped(cache, said):
    items = {"a": matrix(1), "b": matrix(2, 7, 256), "f": PackedMatrix(Layout.F32, 1, 3, np.arange(12, dtype=np.uint8))}
    assert cache.load("key") is None
    stored, loaded = cache.store("key", items.items()), cache.load("key")
    for found in (stored, loaded):
        assert list(found) == list(items)
        assert all(same(found[name], items[name]) for name in items)
        assert isinstance(found["a"].codes.base, np.memmap) or isinstance(found["a"].codes, np.memmap)
        assert not found["a"].codes.flags.writeable
        assert found["a"].codes.ctypes.data % 64 == 0
    assert not same(loaded["a"], items["b"])
    assert cache.load("other") is None
    assert said == []


def test_items_are_made_one_at_a_time(cache):
    alive = []

    def items():
        for i in range(3):
            alive.append(i)
            yield str(i), matrix(i)

    assert set(cache.store("key", items())) == {"0", "1", "2"}
    assert alive == [0, 1, 2]


def test_every_kind_of_codes_comes_back(cache, said):
    items = {storage.value: matrix(storage=storage) for storage in CODE_FORMATS}
    stored = cache.store("key", items.items())
    loaded = cache.load("key")
    for found in (stored, loaded):
        assert all(same(found[name], items[name]) for name in items)
    assert said == []


def test_files_belong_to_the_user_alone(cache, tmp_path):
    cache.store("key", [("a", matrix())])
    cache.wait()
    assert stat.S_IMODE(only_file(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "packed").stat().st_mode) == 0o700


def test_file_that_others_can_write_is_not_trusted(cache, tmp_path, said):
    cache.store("key", [("a", matrix())])
    cache.wait()
    only_file(tmp_path).chmod(0o666)
    assert cache.load("key") is None
    assert "written by others" in str(said[0])


def test_failure_leaves_nothing_behind(cache, tmp_path, said):
    def items():
        yield "a", matrix()
        raise ValueError("the source broke")

    assert cache.store("key", items()) is None
    assert list((tmp_path / "packed").iterdir()) == []
    assert "the source broke" in str(said[0])


def test_interruption_leaves_nothing_behind_and_goes_on(cache, tmp_path):
    def items():
        yield "a", matrix()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.store("key", items())
    assert list((tmp_path / "packed").iterdir()) == []


def test_same_name_twice_is_refused(cache, said):
    assert cache.store("key", [("a", matrix()), ("a", matrix())]) is None
    assert "stored twice" in str(said[0])


def test_model_larger_than_the_limit_is_not_written(tmp_path, said):
    cache = PackCache(tmp_path / "packed", 1000, said.append)
    assert cache.store("key", [("a", matrix())]) is None
    assert "larger than the cache's limit of 1000" in str(said[0])
    assert list((tmp_path / "packed").iterdir()) == []


def test_model_known_to_be_larger_than_the_limit_is_not_even_made(tmp_path, said):
    cache = PackCache(tmp_path / "packed", 1000, said.append)
    made = []
    items = ((made.append(name) or name, matrix()) for name in "ab")
    assert cache.store("key", items, 1001) is None
    assert "larger than the cache's limit of 1000" in str(said[0])
    assert not made and not (tmp_path / "packed").exists()


def test_folder_that_cannot_be_made_is_said_once(tmp_path, said):
    (tmp_path / "packed").write_text("a file")
    assert PackCache(tmp_path / "packed", MIB, said.append).store("key", [("a", matrix())]) is None
    assert len(said) == 1 and "not written" in str(said[0])


def test_least_recently_used_goes_first(tmp_path, said):
    size = matrix().num_bytes
    cache = PackCache(tmp_path / "packed", int(2.5 * size), said.append)
    for age, key in enumerate(["first", "second"]):
        cache.store(key, [("a", matrix())])
        cache.wait()
        for path in (tmp_path / "packed").iterdir():
            if path.stat().st_mtime > 1e8:
                os.utime(path, (1000 + age, 1000 + age))
    assert cache.load("first") is not None  # now the youngest
    cache.store("third", [("a", matrix())])
    cache.wait()
    assert cache.load("first") is not None
    assert cache.load("second") is None
    assert cache.load("third") is not None
    assert sum(path.stat().st_size for path in (tmp_path / "packed").iterdir()) <= 2.5 * size
    assert said == []


def parts(blob):
    """(arrays, index, tail fields) of a file."""
    magic, version, length, digest = struct.unpack("<16sQQ32s", blob[-64:])
    return blob[: -64 - length], json.loads(blob[-64 - length : -64]), magic, version, digest


def rebuilt(blob, index, version=LAYOUT_VERSION):
    body, _, magic, _, _ = parts(blob)
    text = index if isinstance(index, bytes) else json.dumps(index).encode()
    return body + text + struct.pack("<16sQQ32s", magic, version, len(text), hashlib.sha256(text).digest())


@pytest.fixture
def stored(cache, tmp_path):
    cache.store("key", [("a", matrix())])
    cache.wait()
    path = only_file(tmp_path)
    return path, path.read_bytes()


def test_control_rebuilt_file_is_taken(cache, stored, said):
    path, blob = stored
    path.write_bytes(rebuilt(blob, parts(blob)[1]))
    assert same(cache.load("key")["a"], matrix())
    assert said == []


def edited(**changes):
    def edit(index):
        index["items"]["a"].update(changes)
        return index

    return edit


def dropped(name):
    def edit(index):
        del index["items"]["a"][name]
        return index

    return edit


@pytest.mark.parametrize(
    ("storage", "edit"),
    [
        (Storage.Q2_K, edited(scale_form=0)),
        (Storage.Q2_K, edited(scale_form=3)),
        (Storage.Q3_K, edited(scale_form=2)),
        (Storage.Q3_K, edited(group=256)),
        (Storage.Q3_K, edited(mins=[0, 64])),
        (Storage.MXFP4, edited(scale_form=0)),
        (Storage.MXFP4, edited(super=256)),
        (Storage.MXFP4, edited(bits=5)),
        (Storage.MXFP4, edited(codebook=[0, 17])),
        (Storage.IQ4_NL, edited(codebook=[0, 0])),
    ],
)
def test_index_that_contradicts_its_form_of_scales_is_ignored(cache, tmp_path, said, storage, edit):
    cache.store("key", [("a", matrix(storage=storage))])
    cache.wait()
    path = only_file(tmp_path)
    blob = path.read_bytes()
    path.write_bytes(rebuilt(blob, parts(blob)[1]))
    assert same(cache.load("key")["a"], matrix(storage=storage))
    path.write_bytes(rebuilt(blob, edit(parts(blob)[1])))
    assert cache.load("key") is None
    assert len(said) == 1


@pytest.mark.parametrize(
    "edit",
    [
        edited(codes=[0, 1 << 40]),
        edited(codes=[-64, 64]),
        edited(codes=[1 << 62, 1 << 62]),
        edited(codes=[32, 64]),
        edited(codes=[0, -1]),
        edited(codes=[0]),
        edited(codes=[0, "64"]),
        edited(codes=[0.0, 64.0]),
        edited(codes=None),
        edited(n=-1),
        edited(n=1 << 60),
        edited(n=True),
        edited(k="512"),
        edited(layout=77),
        edited(layout=0),
        edited(n=41 + 32),
        edited(k=511),
        edited(k=256),
        edited(bits=5),
        edited(bits=0),
        edited(group=0),
        edited(group=24),
        edited(super=0),
        edited(super=48),
        edited(zero=256),
        edited(scale_form=1),
        edited(scale_form=2),
        edited(scale_form=3),
        edited(scale_form=4),
        edited(scale_form=-1),
        edited(codebook=[0, 15]),
        edited(codebook=[0, 1 << 40]),
        dropped("scale_form"),
        dropped("codes"),
        dropped("bits"),
        lambda index: index | {"key": "another"},
        lambda index: index | {"items": []},
        lambda index: {"key": "key", "items": {"a": 5}},
        lambda index: [],
        lambda index: b"{",
        lambda index: b"[" * 100_000,
        lambda index: b"\xff\xfe",
    ],
)
def test_hostile_index_is_ignored(cache, stored, said, edit):
    path, blob = stored
    path.write_bytes(rebuilt(blob, edit(parts(blob)[1])))
    assert cache.load("key") is None
    assert len(said) == 1 and str(said[0]).count("\n") == 0


def test_other_version_is_ignored(cache, stored, said):
    path, blob = stored
    path.write_bytes(rebuilt(blob, parts(blob)[1], version=LAYOUT_VERSION + 1))
    assert cache.load("key") is None
    assert "version" in str(said[0])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_file_is_ignored_and_rewritten(tmp_path_factory, data):
    said = []
    folder = tmp_path_factory.mktemp("cache")
    cache = PackCache(folder / "packed", 64 * MIB, said.append)
    cache.store("key", [("a", matrix())])
    cache.wait()
    path = only_file(folder)
    blob = bytearray(path.read_bytes())
    tail = 64 + len(json.dumps(parts(bytes(blob))[1], separators=(",", ":")))
    if data.draw(st.booleans()):
        del blob[data.draw(st.integers(0, len(blob) - 1)) :]
    else:
        blob[-data.draw(st.integers(1, tail))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(blob)
    assert cache.load("key") is None
    assert len(said) == 1
    assert same(cache.store("key", [("a", matrix())])["a"], matrix())


def test_default_folder_and_size(tmp_path):
    assert cache_folder({"XDG_CACHE_HOME": "/x"}, tmp_path).as_posix() == "/x/penstock/packed"
    assert cache_folder({"XDG_CACHE_HOME": "relative"}, tmp_path) == tmp_path / ".cache/penstock/packed"
    assert cache_folder({}, tmp_path) == tmp_path / ".cache/penstock/packed"
    assert 0 <= cache_bytes(tmp_path / "not" / "there") <= 20 * 1024**3


WRITER = """
import sys
from pathlib import Path
from penstock.formats import CODE_FORMATS, PackCache, Storage
from penstock.formats.packed import empty

def items():
    yield "a", empty(CODE_FORMATS[Storage.Q4_K], 40, 512)
    print("half", flush=True)
    sys.stdin.read()

PackCache(Path(sys.argv[1]), 1 << 26, print).store("other", items())
"""


def test_what_a_killed_process_left_aside_goes_and_what_a_living_one_writes_stays(cache, tmp_path):
    folder = tmp_path / "packed"
    command = [sys.executable, "-c", WRITER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"half\n"
        cache.store("key", [("a", matrix())])
        cache.wait()
        assert sorted(path.suffix for path in folder.iterdir()) == [".packed", ".part"]
        writer.kill()
        writer.wait()
        assert sorted(path.suffix for path in folder.iterdir()) == [".packed", ".part"]
    cache.store("key", [("a", matrix())])
    cache.wait()
    assert [path.suffix for path in folder.iterdir()] == [".packed"]


def test_disk_that_fails_late_costs_the_file_and_not_the_model(cache, tmp_path, said, monkeypatch):
    def fail(handle):
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "fsync", fail)
    stored = cache.store("key", [("a", matrix())])
    cache.wait()
    assert same(stored["a"], matrix())
    assert list((tmp_path / "packed").iterdir()) == []
    assert "the disk is gone" in str(said[0])
