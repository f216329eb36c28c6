"""Manifests: written whole, read bounded, compared with what is on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from penstock.core import ModelFileError
from penstock.model.manifest import (
    HEADER_BYTES,
    FileRecord,
    Manifest,
    changed,
    differs,
    file_digest,
    read_manifest,
    record_of,
    write_manifest,
)

COMMIT = "a" * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(HEADER_BYTES * 3))
    return path


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path, file: Path) -> None:
    record = record_of(file, file_digest(file))
    manifest = Manifest("a/b", COMMIT, {}).with_selection("", {"x": record, "y": record})
    manifest = manifest.with_selection(":Q4_0", {"z.gguf": record})
    path = tmp_path / "deep/er" / "m.json"
    write_manifest(path, manifest)
    assert read_manifest(path, "a/b", COMMIT) == manifest
    assert list(manifest.without("").files) == ["z.gguf"]
    assert [entry.name for entry in path.parent.iterdir()] == ["m.json"]
    write_manifest(path, manifest.without("").without(":Q4_0"))
    assert not path.exists()
    assert read_manifest(path, "a/b", COMMIT) == Manifest("a/b", COMMIT, {})


def test_what_load_sees_and_what_verify_sees(file: Path) -> None:
    record = record_of(file, file_digest(file))
    assert changed(file, record) is None and differs(file, record) is None
    flip(file, HEADER_BYTES * 2)  # beyond what a load looks at
    assert changed(file, record) is None
    assert (differs(file, record) or "").startswith("sha256 is ")
    flip(file, 3)
    assert changed(file, record) == "its first bytes are not those that were pulled"
    file.write_bytes(b"short")
    assert changed(file, record) == differs(file, record) == f"5 bytes, {HEADER_BYTES * 3} were pulled"
    file.unlink()
    assert "No such file" in (changed(file, record) or "") and "No such file" in (differs(file, record) or "")


GOOD = {"size": 1, "sha256": "0" * 64, "header": "0" * 64, "time_ns": 5}


@pytest.mark.parametrize(
    "spoiled",
    [
        {"repo": "c/d"},
        {"commit": "b" * 40},
        {"files": []},
        {"files": {"x": {}}},
        {"files": {"x": {**GOOD, "more": 1}}},
        {"files": {"../x": GOOD}, "selections": {"": ["../x"]}},
        {"files": {"x": {**GOOD, "size": -1}}},
        {"files": {"x": {**GOOD, "size": "1"}}},
        {"files": {"x": {**GOOD, "sha256": "../" * 21 + "x"}}},
        {"selections": {"": ["y"]}},
        {"selections": {"": []}},
        {"selections": {"": [["x"]]}},
        {"selections": 7},
    ],
    ids=str,
)
def test_a_spoiled_manifest_is_one_line(tmp_path: Path, spoiled: dict[str, Any]) -> None:
    path = tmp_path / "m.json"
    good = {"repo": "a/b", "commit": COMMIT, "files": {"x": GOOD}, "selections": {"": ["x"]}}
    path.write_text(json.dumps(good))
    assert read_manifest(path, "a/b", COMMIT).files == {"x": FileRecord(**GOOD)}
    path.write_text(json.dumps({**good, **spoiled}))
    with pytest.raises(ModelFileError, match=r"m.json: not a manifest of a/b. hint: penstock pull a/b"):
        read_manifest(path, "a/b", COMMIT)
