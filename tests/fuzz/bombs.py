"""Files that are small, well-formed as far as they go, and would cost the most: memory by a lie or by amplification."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

from tests.fuzz.mutations import plain
from tests.fuzz.seeds import ARRAY, STRING, folder, gguf, text

MB = 1024 * 1024
Files = dict[str, bytes]


def _with(name: str, data: bytes) -> Files:
    """A sound folder with one file replaced."""
    return {**{each: plain(held) for each, held in folder().items()}, name: data}


def _other_tokenizer(name: str, data: bytes) -> Files:
    """A sound folder with another kind of tokenizer."""
    return {each: held for each, held in _with(name, data).items() if each != "tokenizer.json"}


def _header(header: bytes, body: bytes = b"") -> Files:
    return _with("model.safetensors", struct.pack("<Q", len(header)) + header + body)


def _gguf(kind: int, count: int, data: bytes) -> Files:
    """A GGUF file with an array at its end, and nothing after it."""
    draft = gguf("gpt2")
    head = b"".join((text(b"x.array"), struct.pack("<IIQ", ARRAY, kind, count), data))
    keys = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + text(b"general.architecture")
    return {"model.gguf": keys + struct.pack("<I", STRING) + text(draft.keys[0][2]) + head}


def _entry(at: int) -> str:
    return f'"t{at}":{{"dtype":"F32","shape":[1],"data_offsets":[{4 * at},{4 * at + 4}]}}'


BOMBS: dict[str, Callable[[], Files]] = {
    "config: empty lists": lambda: _with("config.json", b'{"x":[' + b"[]," * (4 * MB // 3 - 10) + b"1]}"),
    "config: empty objects": lambda: _with("config.json", b'{"x":[' + b"{}," * (4 * MB // 3 - 10) + b"1]}"),
    "config: floats": lambda: _with("config.json", b'{"x":[' + b"1.5," * (MB - 10) + b"1]}"),
    "config: keys": lambda: _with("config.json", json.dumps({f"k{at}": at for at in range(220_000)}).encode()),
    "config: blanks": lambda: _with("config.json", b" " * (4 * MB - 10) + b"{}"),
    "config: too large": lambda: _with("config.json", b'"' + b"x" * 100 * MB),
    "config: open brackets": lambda: _with("config.json", b"[" * 4 * MB),
    "config: a string that never ends": lambda: _with("config.json", b'{"a": "' + b'\\"' * (2 * MB - 10)),
    "generation: empty lists": lambda: _with(
        "generation_config.json", b'{"x":[' + b"[]," * (4 * MB // 3 - 10) + b"1]}"
    ),
    "tokenizer config: empty objects": lambda: _with(
        "tokenizer_config.json", b'{"x":[' + b"{}," * (4 * MB // 3 - 10) + b"1]}"
    ),
    "header: open brackets": lambda: _header(b"[" * 16 * MB),
    "header: commas": lambda: _header(b"{" + b"," * 16 * MB),
    "header: blanks": lambda: _header(b" " * 15 * MB + b"{}"),
    "header: a string": lambda: _header(b'{"' + b"x" * 15 * MB + b'": 1}'),
    "header: blanks past the limit": lambda: _header(b" " * 90 * MB + b"{}"),
    "header: tensors": lambda: _header(("{" + ",".join(map(_entry, range(200_000))) + "}").encode()),
    "header: empty lists": lambda: _header(b'{"x":[' + b"[]," * (4 * MB) + b"1]}"),
    "header: shapes": lambda: _header(b'{"x":{"dtype":"F32","shape":[' + b"1," * (3 * MB) + b"1]}}"),
    "index: a million names": lambda: {
        name: data
        for name, data in _with(
            "model.safetensors.index.json",
            json.dumps(
                {"weight_map": {f"t{at}": "model-00001-of-00001.safetensors" for at in range(300_000)}}
            ).encode(),
        ).items()
        if name != "model.safetensors"
    },
    "index: many shards": lambda: {
        name: data
        for name, data in _with(
            "model.safetensors.index.json",
            json.dumps({"weight_map": {f"t{at}": f"model-{at}.safetensors" for at in range(100_000)}}).encode(),
        ).items()
        if name != "model.safetensors"
    },
    "gguf: bytes": lambda: _gguf(0, 16 * MB, b"\x01" * 16 * MB),
    "gguf: large bytes": lambda: _gguf(4, 4 * MB, b"\xff\xff\xff\x7f" * 4 * MB),
    "gguf: floats": lambda: _gguf(6, 4 * MB, b"\x01\x02\x03\x04" * 4 * MB),
    "gguf: doubles": lambda: _gguf(12, 2 * MB, b"\x01\x02\x03\x04\x05\x06\x07\x08" * 2 * MB),
    "gguf: flags": lambda: _gguf(7, 16 * MB, b"\x01" * 16 * MB),
    "gguf: empty strings": lambda: _gguf(8, 4 * MB, b"\0" * 32 * MB),
    "gguf: short strings": lambda: _gguf(8, 3 * MB, (b"\x02" + b"\0" * 7 + b"ab") * 3 * MB),
    "gguf: wide strings": lambda: _gguf(8, 2 * MB, (b"\x04" + b"\0" * 7 + "😀".encode()) * 2 * MB),
    "gguf: one long string": lambda: _gguf(8, 1, struct.pack("<Q", 64 * MB) + b"x" * 64 * MB),
    "gguf: keys": lambda: {
        "model.gguf": b"GGUF"
        + struct.pack("<IQQ", 3, 0, 99_999)
        + b"".join(text(b"k%06d" % at) + struct.pack("<II", 4, at) for at in range(99_999))
    },
    "gguf: tensors": lambda: {
        "model.gguf": b"GGUF"
        + struct.pack("<IQQ", 3, 300_000, 0)
        + b"".join(text(b"t%06d" % at) + struct.pack("<IQIQ", 1, 1, 0, 32 * at) for at in range(300_000))
    },
    "tokenizer: nothing but brackets": lambda: _with("tokenizer.json", b"[" * 8 * MB),
    "tokenizer: added tokens": lambda: _with(
        "tokenizer.json", b'{"added_tokens":[' + b'{"id":1,"content":"a"},' * 300_000 + b"1]}"
    ),
    "tokenizer: empty lists": lambda: _with("tokenizer.json", b'{"x":[' + b"[]," * 4 * MB + b"1]}"),
    "tokenizer: lists in the model": lambda: _with("tokenizer.json", b'{"model":{"x":[' + b"[]," * 5 * MB + b"1]}}"),
    "tokenizer: numbers in the model": lambda: _with("tokenizer.json", b'{"model":{"x":[' + b"1," * 8 * MB + b"1]}}"),
    "tokenizer.model: empty pieces": lambda: _other_tokenizer("tokenizer.model", b"\x0a\x00" * 8 * MB),
    "tokenizer.model: short pieces": lambda: _other_tokenizer("tokenizer.model", b"\x0a\x04\x0a\x02ab" * 3 * MB),
    "tokenizer.model: ranks": lambda: _other_tokenizer("tokenizer.model", b"AA== 1\n" * 3 * MB),
    "tekken: empty lists": lambda: _other_tokenizer("tekken.json", b'{"x":[' + b"[]," * 5 * MB + b"1]}"),
    "tokenizer: too large": lambda: _with("tokenizer.json", b'"' + b"x" * 100 * MB),
    "template: too large": lambda: _with("chat_template.jinja", b"{{ 1 }}" * 10 * MB),
}
