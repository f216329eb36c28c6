"""Small sound models to spoil: a folder, a sharded folder, and GGUF files with both kinds of tokenizer."""

from __future__ import annotations

import json
import math
import struct
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

HIDDEN, HEADS, FF, LAYERS = 16, 2, 24, 2
STRING, ARRAY, U32, F32, BOOL, I32 = 8, 9, 4, 6, 7, 5
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
SPECIAL = ["<unk>", "<s>", "</s>"]


def byte_tokens() -> list[str]:
    """The 256 characters that stand for bytes in byte-level vocabularies."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in shown]
    names = {byte: chr(byte) for byte in shown} | {byte: chr(256 + at) for at, byte in enumerate(rest)}
    return [names[byte] for byte in range(256)]


TOKENS = [*SPECIAL, *byte_tokens()]
VOCAB = len(TOKENS) + 1  # with one merge
SHAPES = {"model.embed_tokens.weight": [VOCAB, HIDDEN], "model.norm.weight": [HIDDEN]}
for _layer in range(LAYERS):
    _at = f"model.layers.{_layer}"
    SHAPES |= {f"{_at}.{name}.weight": [HIDDEN] for name in ("input_layernorm", "post_attention_layernorm")}
    SHAPES |= {f"{_at}.self_attn.{name}_proj.weight": [HIDDEN, HIDDEN] for name in "qkvo"}
    SHAPES |= {f"{_at}.mlp.{name}_proj.weight": [FF, HIDDEN] for name in ("gate", "up")}
    SHAPES |= {f"{_at}.mlp.down_proj.weight": [HIDDEN, FF]}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FF,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCAB,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
}  # fmt: skip
TOKENIZER: dict[str, Any] = {
    "version": "1.0", "truncation": None, "padding": None,
    "added_tokens": [
        {"id": id, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for id, text in enumerate(SPECIAL)
    ],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {text: id for id, text in enumerate([*TOKENS, "he"])}, "merges": [["h", "e"]],
    },
}  # fmt: skip
TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
    "add_bos_token": True, "model_max_length": 128, "chat_template": TEMPLATE,
}  # fmt: skip
GENERATION: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "eos_token_id": [2]}


@dataclass
class SafetensorsDraft:
    """A safetensors file before it is written; every number in it may lie."""

    header: dict[str, Any]
    body: bytes
    length: int | None = None  # None is the true one
    raw: bytes | None = None  # the header as bytes, in place of `header`

    def written(self) -> bytes:
        header = self.raw if self.raw is not None else json.dumps(self.header).encode()
        return struct.pack("<Q", (len(header) if self.length is None else self.length) % 2**64) + header + self.body


@dataclass
class GgufTensor:
    """A tensor's entry; `dims` innermost first."""

    name: bytes
    dims: list[int]
    kind: int
    offset: int
    rank: int | None = None


@dataclass
class GgufDraft:
    """A GGUF file before it is written; every number in it may lie."""

    keys: list[tuple[bytes, int, Any]]
    tensors: list[GgufTensor]
    body: bytes
    version: int = 3
    alignment: int = 32
    num_keys: int | None = None
    num_tensors: int | None = None
    cut: bytes = field(default=b"")

    def written(self) -> bytes:
        keys = b"".join(
            text(name) + struct.pack("<I", kind % 2**32) + value(kind, held) for name, kind, held in self.keys
        )
        infos = b"".join(
            text(each.name)
            + struct.pack("<I", (len(each.dims) if each.rank is None else each.rank) % 2**32)
            + b"".join(struct.pack("<Q", dim % 2**64) for dim in each.dims)
            + struct.pack("<IQ", each.kind % 2**32, each.offset % 2**64)
            for each in self.tensors
        )
        counts = (
            len(self.tensors) if self.num_tensors is None else self.num_tensors,
            len(self.keys) if self.num_keys is None else self.num_keys,
        )
        head = b"GGUF" + struct.pack("<IQQ", self.version % 2**32, counts[0] % 2**64, counts[1] % 2**64) + keys + infos
        return head + b"\0" * (-len(head) % self.alignment) + self.body


@dataclass(frozen=True)
class Lie:
    """A string or an array whose length is not what follows."""

    count: int
    data: bytes
    kind: int = 0


def text(data: bytes | Lie) -> bytes:
    """A string as GGUF holds it."""
    count, held = (data.count, data.data) if isinstance(data, Lie) else (len(data), data)
    return struct.pack("<Q", count % 2**64) + held


def value(kind: int, held: Any) -> bytes:
    """A value as GGUF holds it; what does not fit the kind is written as a string."""
    if isinstance(held, Lie) and kind == ARRAY:
        return struct.pack("<IQ", held.kind, held.count % 2**64) + held.data
    if isinstance(held, list):
        inner = STRING if held and isinstance(held[0], bytes) else F32 if held and isinstance(held[0], float) else I32
        return struct.pack("<IQ", inner, len(held)) + b"".join(value(inner, each) for each in held)
    if isinstance(held, Lie | bytes):
        return text(held)
    if kind == F32:
        return struct.pack("<f", held)
    if kind == BOOL:
        return struct.pack("<B", int(held) % 256)
    whole = int(held) if math.isfinite(held) else 0
    return struct.pack("<I", whole % 2**32) if kind in (U32, I32) else struct.pack("<Q", whole % 2**64)


def numbers(shape: list[int], seed: int) -> bytes:
    """Deterministic small F32 values."""
    count = 1
    for dim in shape:
        count *= dim
    return b"".join(struct.pack("<f", ((at * 37 + seed) % 101 - 50) / 500) for at in range(count))


def safetensors(names: list[str]) -> SafetensorsDraft:
    """The tensors of these names, F32."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for at, name in enumerate(names):
        data = numbers(SHAPES[name], at)
        header[name] = {"dtype": "F32", "shape": SHAPES[name], "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    return SafetensorsDraft(header, body)


_PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> bytes:
    """A tensor's name in GGUF files."""
    stem = name.removesuffix(".weight")
    fixed = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    if stem not in fixed:
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{_PARTS[part]}.weight".encode()
    return f"{fixed[stem]}.weight".encode()


def gguf(tokenizer: str) -> GgufDraft:
    """The model as a GGUF file, with a "gpt2" or "llama" tokenizer."""
    spelled = [*TOKENS, "he"] if tokenizer == "gpt2" else [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "e"]
    types = [2, 3, 3, *([1] * 256 if tokenizer == "gpt2" else [6] * 256), 1]
    keys: list[tuple[bytes, int, Any]] = [
        (b"general.architecture", STRING, b"llama"), (b"general.alignment", U32, 32), (b"general.name", STRING, b"x"),
        (b"llama.context_length", U32, 128), (b"llama.embedding_length", U32, HIDDEN),
        (b"llama.block_count", U32, LAYERS), (b"llama.feed_forward_length", U32, FF),
        (b"llama.attention.head_count", U32, HEADS), (b"llama.attention.head_count_kv", U32, HEADS),
        (b"llama.attention.layer_norm_rms_epsilon", F32, 1e-5), (b"llama.rope.freq_base", F32, 10000.0),
        (b"llama.rope.dimension_count", U32, HIDDEN // HEADS), (b"llama.vocab_size", U32, VOCAB),
        (b"tokenizer.ggml.model", STRING, tokenizer.encode()),
        (b"tokenizer.ggml.tokens", ARRAY, [token.encode() for token in spelled]),
        (b"tokenizer.ggml.token_type", ARRAY, types), (b"tokenizer.ggml.bos_token_id", U32, 1),
        (b"tokenizer.ggml.eos_token_id", U32, 2), (b"tokenizer.ggml.add_bos_token", BOOL, True),
        (b"tokenizer.chat_template", STRING, TEMPLATE.encode()),
    ]  # fmt: skip
    if tokenizer == "gpt2":
        keys += [(b"tokenizer.ggml.pre", STRING, b"llama-bpe"), (b"tokenizer.ggml.merges", ARRAY, [b"h e"])]
    else:
        keys += [(b"tokenizer.ggml.scores", ARRAY, [-float(at) for at in range(VOCAB)])]
    tensors, body = [], b""
    for at, (name, shape) in enumerate(SHAPES.items()):
        body += b"\0" * (-len(body) % 32)
        tensors.append(GgufTensor(gguf_name(name), shape[::-1], 0, len(body)))
        body += numbers(shape, at)
    return GgufDraft(keys, tensors, body)


def folder() -> dict[str, Any]:
    """File name → what it holds, of a folder with one weight file."""
    return {
        "config.json": CONFIG,
        "generation_config.json": GENERATION,
        "tokenizer.json": TOKENIZER,
        "tokenizer_config.json": TOKENIZER_CONFIG,
        "model.safetensors": safetensors(list(SHAPES)),
    }


def field_bytes(number: int, data: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes (under 16384 of them)."""
    length = bytes([len(data)]) if len(data) < 128 else bytes([len(data) % 128 | 128, len(data) // 128])
    return bytes([number << 3 | 2]) + length + data


def sentencepiece() -> bytes:
    """A SentencePiece model with a piece for every byte."""
    pieces = [(text.encode(), kind) for text, kind in zip(SPECIAL, (2, 3, 3), strict=True)]
    pieces += [(f"<0x{byte:02X}>".encode(), 6) for byte in range(256)] + [(b"e", 1)]
    found = b""
    for at, (piece, kind) in enumerate(pieces):
        found += field_bytes(1, field_bytes(1, piece) + b"\x15" + struct.pack("<f", -at) + bytes([3 << 3, kind]))
    return found + field_bytes(2, bytes([3 << 3, 2])) + field_bytes(3, field_bytes(1, b"identity"))


def tekken() -> dict[str, Any]:
    """A vocabulary by rank, of single bytes."""
    vocab = [{"rank": at, "token_bytes": b64encode(bytes([at])).decode(), "token_str": None} for at in range(256)]
    special = [{"rank": at, "token_str": text, "is_control": True} for at, text in enumerate(SPECIAL)]
    config = {
        "pattern": "[a-z]+|.",
        "num_vocab_tokens": 256,
        "default_vocab_size": 259,
        "default_num_special_tokens": 3,
    }
    return {"config": config, "vocab": vocab, "special_tokens": special}


def other_tokenizer(name: str) -> dict[str, Any]:
    """A folder with tokenizer.model or tekken.json in place of tokenizer.json."""
    held = {"tokenizer.model": sentencepiece, "tekken.json": tekken}[name]()
    return {each: value for each, value in folder().items() if each != "tokenizer.json"} | {name: held}


def sharded() -> dict[str, Any]:
    """The same with two weight files and an index."""
    names = list(SHAPES)
    shards = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {name: shard for shard, held in shards.items() for name in held},
    }
    files = {name: held for name, held in folder().items() if name != "model.safetensors"}
    return {
        **files,
        "model.safetensors.index.json": index,
        **{name: safetensors(held) for name, held in shards.items()},
    }
