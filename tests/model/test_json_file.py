"""JSON documents from strangers: bounded, unique keys, one line about what is wrong, in linear time."""

import re
import time

import pytest

from penstock.core import ModelFileError, limits
from penstock.model.json_file import parse_json, read_bytes

# What is counted outside strings is not what stands inside them.
INSIDE = b'{"a": "[[[[,,,\\\\", "b\\"[": [1, {"c": "\\u005b"}]}'


def test_strings_hide_their_brackets() -> None:
    assert parse_json(INSIDE, "x") == {"a": "[[[[,,,\\", 'b"[': [1, {"c": "["}]}
    deep = b"[" * (limits.MAX_JSON_DEPTH + 1)
    assert parse_json(b'{"a": "' + deep + b'"}', "x") == {"a": deep.decode()}
    with pytest.raises(ModelFileError, match="levels deep"):
        parse_json(b'{"a": ' + deep, "x")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a": 1, "a": 2}', "key 'a' occurs twice"),
        (b"[]", "a JSON list where an object is needed"),
        (b'{"a": \xff}', "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "an integer of 5000 digits"),
        (b'{"a": "', "not valid JSON"),
        (b'{"a": "\\', "not valid JSON"),
        (b'{"a": [' + b"," * (limits.MAX_OVERHEAD_BYTES // 40), "bytes of memory; at most 67108864 above its size"),
        (b'{"a": [' + b"[]," * 600_000, "bytes of memory; at most"),
        (b'{"a": ["' + b"x" * 16_000_000 + '\U0001f600"]}'.encode(), "bytes of memory; at most"),
        (b'{"a": ["' + b"x" * 20_000_000 + b'\\ud83d\\ude00"]}', "bytes of memory; at most"),
        (b"{}" + b"]" * 100, "it closes what it never opened"),
    ],
)
def test_what_is_no_document_is_refused_in_one_line(data: bytes, words: str) -> None:
    with pytest.raises(ModelFileError, match=re.escape(words)) as raised:
        parse_json(data, "x/config.json")
    assert str(raised.value).startswith("x/config.json: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("tail", [b"", b"\\"])
def test_a_string_without_an_end_takes_linear_time(tail: bytes) -> None:
    data = b'{"a": "' + b'\\"' * 500_000 + tail
    started = time.process_time()
    with pytest.raises(ModelFileError, match="not valid JSON"):
        parse_json(data, "x")
    assert time.process_time() - started < 10  # quadratic: over an hour


def test_large_and_missing_files(tmp_path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}" + b" " * 99)
    assert len(read_bytes(tmp_path / "config.json", 101)) == 101
    with pytest.raises(ModelFileError, match="101 bytes; at most 100"):
        read_bytes(tmp_path / "config.json", 100)
    with pytest.raises(ModelFileError, match="no such file"):
        read_bytes(tmp_path / "none.json", 100)
