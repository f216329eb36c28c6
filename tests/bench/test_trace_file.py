"""Trace files that mean harm: each is refused in one line, before it takes memory or time."""

import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.bench import trace_file
from penstock.bench.trace_file import count_in, number_in, trace_lines, trace_objects
from penstock.core import ConfigError


def written(folder: Path, data: bytes, name: str = "trace.jsonl") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refused(path: Path, words: str, read=trace_objects) -> None:
    with pytest.raises(ConfigError) as error:
        list(read(path))
    text = str(error.value)
    assert words in text
    assert "\n" not in text
    assert error.value.hint
    assert len(text) < 500


def test_lines_are_numbered_as_in_an_editor_and_empty_ones_left_out(tmp_path: Path) -> None:
    for name, data in (("a.csv", b"one\r\n\n two \n"), ("a.csv.gz", gzip.compress(b"one\r\n\n two \n"))):
        assert list(trace_lines(written(tmp_path, data, name))) == [(1, b"one"), (3, b"two")]


def test_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.jsonl", "no such file")
    refused(tmp_path, "no such file")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused(pipe, "no such file")  # opening it would wait for ever


@pytest.mark.parametrize("cut", [3, 30, -4])
def test_a_broken_archive(tmp_path: Path, cut: int) -> None:
    whole = gzip.compress(os.urandom(2000).hex().encode())
    refused(written(tmp_path, whole[:cut], "a.gz"), "can't be read", trace_lines)


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    refused(written(tmp_path, b"plain text", "a.gz"), "can't be read", trace_lines)
    garbled = bytearray(gzip.compress(b"x" * 5000 + os.urandom(500)))
    garbled[20:40] = bytes(20)
    refused(written(tmp_path, bytes(garbled), "b.gz"), "", trace_lines)


def test_a_line_without_an_end(tmp_path: Path) -> None:
    refused(written(tmp_path, b"[" * (trace_file.MAX_TRACE_LINE_BYTES + 5)), "longer than")


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_file, "MAX_TRACE_BYTES", 100_000)
    refused(written(tmp_path, gzip.compress(b"{}\n" * 40_000), "a.gz"), "unpacked bytes", trace_lines)


def test_too_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_file, "MAX_TRACE_ROWS", 100)
    assert len(list(trace_lines(written(tmp_path, b"x\n" * 100)))) == 100
    refused(written(tmp_path, b"x\n" * 103), "rows", trace_lines)


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[]",
        b"3",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b"{" * 100000,
        b"[" * 100000,
        b'{"a"',
        b"\xff\xfe",
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 70 + b"]" * 70 + b"}",
        b"\x00" * 50,
        b'"' * 1001,
    ],
    ids=range(13),
)
def test_a_line_that_is_no_object(tmp_path: Path, line: bytes) -> None:
    refused(written(tmp_path, b"{}\n" + line + b"\n"), "line 2")


def test_a_line_that_would_take_too_much_memory(tmp_path: Path) -> None:
    refused(written(tmp_path, b'{"a": [' + b"{}," * 1_300_000 + b"{}]}"), "memory")


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = written(tmp_path_factory.mktemp("any"), data)
    try:
        found = list(trace_objects(path))
    except ConfigError as error:
        assert "line" in str(error)
    else:
        assert all(isinstance(one, dict) for _, one in found)


def test_numbers_that_are_none() -> None:
    assert count_in(3, 1, 3) and not count_in(4, 1, 3) and not count_in(2.0, 1, 3)
    assert not count_in(True, 0, 3) and not number_in(True, 0, 3) and not number_in("1", 0, 3)
    assert number_in(1, 0, 3) and number_in(1.5, 0, 3) and not number_in(float("nan"), 0, 3)
