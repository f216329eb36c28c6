"""Ways to spoil a sound model, from a seed: by the grammar of each format, and byte by byte."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from tests.fuzz.seeds import (
    ARRAY,
    BOOL,
    F32,
    STRING,
    U32,
    GgufDraft,
    GgufTensor,
    Lie,
    SafetensorsDraft,
    folder,
    gguf,
    other_tokenizer,
    sharded,
    tekken,
)

INTEGERS = [0, 1, 2, 3, 7, 8, 31, 32, 33, 127, 255, 256, 1000, 65535, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
INTEGERS += [2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -(2**31), -(2**63), 10**30]
FAMILIES = ["llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text"]
FAMILIES += ["phi3", "olmo2", "olmoe", "granite", "smollm3", "gpt_oss", "gpt-oss", "gemma3", "deepseek_v3", "bert", ""]
ROPES = ["default", "linear", "dynamic", "llama3", "yarn", "longrope", "su", "mrope", "", None]
KEYS = [
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "sliding_window",
    "layer_types",
    "head_dim",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "attention_bias",
    "mlp_bias",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "query_pre_attn_scalar",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "attention_multiplier",
    "no_rope_layers",
    "no_rope_layer_interval",
    "quantization_config",
    "text_config",
    "dtype",
    "decoder_sparse_step",
    "mlp_only_layers",
    "norm_topk_prob",
    "clip_qkv",
    "swiglu_limit",
    "max_window_layers",
    "use_sliding_window",
    "sliding_window_pattern",
    "rope_local_base_freq",
    "original_max_position_embeddings",
    "num_key_value_heads",
    "vocab_size",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
]
_MAX_LIST = 3000


def json_value(chance: random.Random, depth: int = 0) -> Any:
    """A value that readers don't expect."""
    kind = chance.randrange(9 if depth < 3 else 7)
    if kind == 0:
        return chance.choice(INTEGERS)
    if kind == 1:
        return chance.choice([0.0, -1.0, 1e-320, 1e308, -1e308, 0.5, 1e19])
    if kind == 2:
        return chance.choice([None, True, False, [], {}, ""])
    if kind == 3:
        return chance.choice(["", "a", "../../x", "\x00", "é" * 50, "F32", "llama", "x" * 5000, "1" * 50, "{{ 1/0 }}"])
    if kind == 4:
        return chance.choice(FAMILIES)
    if kind == 5:
        return [chance.choice(INTEGERS) for _ in range(chance.choice([0, 1, 2, 5, _MAX_LIST]))]
    if kind == 6:
        return {"type": chance.choice(ROPES), "rope_type": chance.choice(ROPES), "factor": chance.choice(INTEGERS)}
    if kind == 7:
        return [json_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {str(json_value(chance, 3))[:40]: json_value(chance, depth + 1) for _ in range(chance.randrange(4))}


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all nodes, the root's first."""
    found = [path]
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, each in list(entries)[:400]:
        found += places(each, (*path, key))
    return found


def spoil_tree(tree: Any, chance: random.Random) -> Any:
    """The tree with one node changed, removed, doubled or renamed; near the root as often as deep."""
    tree = copy.deepcopy(tree)
    paths = places(tree)
    near = [path for path in paths if 0 < len(path) <= 2]
    path = chance.choice(near if near and chance.random() < 0.6 else paths)
    if not path:
        return json_value(chance)
    at = tree
    for key in path[:-1]:
        at = at[key]
    what = chance.randrange(6)
    if what <= 2:
        at[path[-1]] = json_value(chance)
    elif what == 3:
        del at[path[-1]]
    elif what == 4 and isinstance(at, dict):
        at[str(json_value(chance, 3))[:60]] = at.pop(path[-1])
    elif isinstance(at, list):
        at += [copy.deepcopy(at[path[-1]])] * chance.choice([1, 2, 100])
    else:
        at[path[-1]] = [at[path[-1]]]
    return tree


def spoil_config(tree: Any, chance: random.Random) -> Any:
    """A config with keys of any family set to anything."""
    if not isinstance(tree, dict):
        return tree
    tree = {**tree, "model_type": chance.choice(FAMILIES)} if chance.random() < 0.5 else dict(tree)
    for _ in range(chance.randrange(1, 4)):
        tree[chance.choice(KEYS)] = json_value(chance)
    if chance.random() < 0.3:
        tree["rope_scaling"] = {chance.choice(KEYS[:40]): json_value(chance), "rope_type": chance.choice(ROPES)}
    return tree


def spoil_text(data: bytes, chance: random.Random) -> bytes:
    """JSON text that a writer would not write."""
    what = chance.randrange(9)
    at = chance.randrange(len(data) + 1)
    if what == 0:
        return data.replace(b"{", b'{"model_type": "llama", ', 1).replace(b"{", b'{"model_type": "llama", ', 1)
    if what == 1:
        deep = chance.choice([10, 63, 64, 65, 1000, 100_000])
        return data[:at] + b"[" * deep + b"]" * chance.choice([0, deep]) + data[at:]
    if what == 2:
        return data.replace(b": 1", b": " + b"1" * chance.choice([20, 400, 5000, 100_000]), 1)
    if what == 3:
        return chance.choice(
            [b"", b"\xef\xbb\xbf" + data, data.decode("utf-8").encode("utf-16"), b"null", b"7", b"\x00" * 100]
        )
    if what == 4:
        return data[:at] + chance.choice([b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b'"', b"\\", b"\x00"]) + data[at:]
    if what == 5:
        return data.replace(b": 1", b": " + chance.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0"]), 1)
    return spoil_bytes(data, chance)


def spoil_bytes(data: bytes, chance: random.Random) -> bytes:
    """Bits flipped, bytes cut, doubled, inserted or overwritten, more often near the beginning."""
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        limit = len(data) if chance.random() < 0.4 else min(len(data), 2048)
        at = chance.randrange(limit) if limit else 0
        what = chance.randrange(6)
        if what == 0 and data:
            data[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            del data[at:]
        elif what == 2:
            del data[at : at + chance.choice([1, 4, 8, 100])]
        elif what == 3:
            data[at:at] = data[at : at + chance.choice([1, 8, 100])]
        elif what == 4:
            data[at : at + 8] = (chance.choice(INTEGERS) % 2**64).to_bytes(8, "little")
        else:
            data[at:at] = chance.choice([b"\xff" * 8, b"\x00" * 16, b"A" * 300, b"\x7f"])
    return bytes(data)


def spoil_safetensors(draft: SafetensorsDraft, chance: random.Random) -> SafetensorsDraft:
    """A weight file with a lie in it."""
    draft = copy.deepcopy(draft)
    what = chance.randrange(7)
    if what == 0:
        draft.length = chance.choice(INTEGERS)
    elif what == 1:
        draft.raw = spoil_text(json.dumps(draft.header).encode(), chance)
    elif what == 2:
        draft.body = chance.choice([b"", draft.body[:-1], draft.body + b"x", draft.body * 2])
    elif what == 3:
        name = chance.choice(list(draft.header)[1:])
        entry = draft.header[name]
        chance.choice([entry["shape"], entry["data_offsets"]])[:1] = [chance.choice(INTEGERS)]
    elif what == 4:
        name = chance.choice(list(draft.header)[1:])
        draft.header[name]["dtype"] = chance.choice(["F16", "BF16", "F64", "F8_E4M3", "I64", "U8", "F4", "", 7, None])
    else:
        draft.header = spoil_tree(draft.header, chance)
    return draft


def spoil_gguf(draft: GgufDraft, chance: random.Random) -> GgufDraft:
    """A GGUF file with lies in it."""
    draft = copy.deepcopy(draft)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        _GGUF[chance.randrange(len(_GGUF))](draft, chance)
    return draft


def _count(draft: GgufDraft, chance: random.Random) -> None:
    which = chance.choice(["num_keys", "num_tensors", "version"])
    setattr(draft, which, chance.choice(INTEGERS))


def _key(draft: GgufDraft, chance: random.Random) -> None:
    if not draft.keys:
        return
    at = chance.randrange(len(draft.keys))
    name, kind, held = draft.keys[at]
    what = chance.randrange(6)
    if what == 0:
        draft.keys[at] = (chance.choice([b"", name, b"\xff\xfe", b"x" * 70_000, draft.keys[0][0]]), kind, held)
    elif what == 1:
        draft.keys[at] = (name, chance.randrange(16), held)
    elif what == 2:
        del draft.keys[at]
    elif what == 3:
        draft.keys.append(draft.keys[at])
    elif what == 4 and isinstance(held, list) and held:
        spoiled = list(held)
        spoiled[chance.randrange(len(spoiled))] = chance.choice([held[0], held[-1]])
        draft.keys[at] = (name, kind, spoiled[: chance.choice([0, 1, len(spoiled) - 1, len(spoiled)])])
    else:
        draft.keys[at] = (name, kind, _other(kind, chance))


def _other(kind: int, chance: random.Random) -> Any:
    if kind == STRING:
        lie = Lie(chance.choice(INTEGERS), b"x" * chance.choice([0, 5]))
        return chance.choice([b"", b"\xff", b"x" * 5000, b"bert", b"t5", b"{{ 1/0 }}", b"{% for %}", b"default", lie])
    if kind == ARRAY:
        lie = Lie(chance.choice(INTEGERS), b"\x01" * chance.choice([0, 8, 400]), chance.randrange(14))
        return chance.choice([[], [1] * 300, [b""] * 260, [b"a"] * 260, [0.5] * 10, lie, lie, lie])
    if kind == F32:
        return chance.choice([0.0, -1.0, float("inf"), float("nan"), 1e38, 1e-40])
    return chance.choice(INTEGERS) if kind != BOOL else chance.randrange(256)


def _architecture(draft: GgufDraft, chance: random.Random) -> None:
    """Another family's name, everywhere; some of its keys set."""
    name = chance.choice(FAMILIES).replace("_text", "").replace("_", chance.choice(["", "-"])).encode()
    draft.keys = [
        (key.replace(b"llama.", name + b".", 1), kind, name if key == b"general.architecture" else held)
        for key, kind, held in draft.keys
    ]
    for key in ("expert_count", "expert_used_count", "attention.sliding_window", "attention.key_length"):
        if chance.random() < 0.4:
            draft.keys.append((name + b"." + key.encode(), U32, chance.choice(INTEGERS)))


def _tensor(draft: GgufDraft, chance: random.Random) -> None:
    if not draft.tensors:
        return
    each = draft.tensors[chance.randrange(len(draft.tensors))]
    what = chance.randrange(8)
    if what == 0:
        each.dims[chance.randrange(len(each.dims)) :][:1] = [chance.choice(INTEGERS)]
        each.dims[0] = chance.choice(INTEGERS)
    elif what == 1:
        each.rank = chance.choice(INTEGERS)
    elif what == 2:
        each.kind = chance.choice([*range(45), 2**31, 2**32 - 1])
    elif what == 3:
        each.offset = chance.choice([*INTEGERS, each.offset + 32, each.offset - 32])
    elif what == 4:
        each.name = chance.choice([b"", b"\xff", b"x" * 70_000, draft.tensors[0].name, each.name + b"x"])
    elif what == 5:
        draft.tensors.remove(each)
    elif what == 6:
        draft.tensors.append(
            GgufTensor(chance.choice([each.name, b"rope_freqs.weight", b"more"]), each.dims, 0, each.offset)
        )
    else:
        each.dims = [*each.dims, chance.choice([1, 1, *INTEGERS])]


def _body(draft: GgufDraft, chance: random.Random) -> None:
    draft.body = chance.choice([b"", draft.body[:-1], draft.body[: len(draft.body) // 2], draft.body + b"\0" * 100])
    draft.alignment = chance.choice([1, 8, 32, 64, 4096])


_GGUF: list[Callable[[GgufDraft, random.Random], None]] = [
    _count,
    _key,
    _key,
    _key,
    _tensor,
    _tensor,
    _body,
    _architecture,
]


def case(seed: int) -> dict[str, bytes]:
    """File name → bytes of the spoiled model of a seed; one file is spoiled, or two."""
    chance = random.Random(seed)
    if chance.random() < 0.45:
        draft = spoil_gguf(gguf(chance.choice(["gpt2", "llama"])), chance)
        data = draft.written()
        return {"model.gguf": spoil_bytes(data, chance) if chance.random() < 0.3 else data}
    form = chance.random()
    if form < 0.1:
        return _other_tokenizer(chance)
    files = sharded() if form < 0.3 else folder()
    names = chance.sample(list(files), chance.choice([1, 1, 1, 2]))
    if chance.random() < 0.25:
        names = ["config.json"]
    return {name: spoiled(name, held, chance) if name in names else plain(held) for name, held in files.items()}


def _other_tokenizer(chance: random.Random) -> dict[str, bytes]:
    """A folder whose tokenizer is not a tokenizer.json, and is spoiled."""
    name = chance.choice(["tokenizer.model", "tekken.json"])
    files = {each: plain(held) for each, held in other_tokenizer(name).items()}
    bad = spoil_bytes(files[name], chance) if name == "tokenizer.model" else spoiled(name, tekken(), chance)
    return {**files, name: bad}


def spoiled(name: str, held: Any, chance: random.Random) -> bytes:
    """One file's bytes with something wrong."""
    if isinstance(held, SafetensorsDraft):
        data = spoil_safetensors(held, chance).written()
        return spoil_bytes(data, chance) if chance.random() < 0.2 else data
    how = chance.random()
    if name == "config.json" and how < 0.6:
        return plain(spoil_config(held, chance))
    if how < 0.75:
        for _ in range(chance.choice([1, 1, 2, 3])):
            held = spoil_tree(held, chance)
        return plain(held)
    return spoil_text(plain(held), chance)


def plain(held: Any) -> bytes:
    """A file's bytes as they should be."""
    if isinstance(held, bytes):
        return held
    return held.written() if isinstance(held, SafetensorsDraft) else json.dumps(held).encode()
