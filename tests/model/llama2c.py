"""A llama2.c checkpoint (.bin) and its tokenizer as a Hugging Face folder, for tests that need a real trained model.

The merge rules are rebuilt from the pieces' scores: of all pairs that form a piece, the one whose piece scores highest
joins first.
"""

import json
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

UNK, BOS, EOS = 0, 1, 2
FIRST_PIECE = 3 + 256
NAMES = {UNK: "<unk>", BOS: "<s>", EOS: "</s>"}


def convert(model_bin: Path, tokenizer_bin: Path, folder: Path) -> Path:
    """Writes config.json, model.safetensors (f32), tokenizer.json and tokenizer_config.json; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config, tensors = read_model(model_bin)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = make_tokenizer(read_pieces(tokenizer_bin, int(config["vocab_size"])))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"unk_token": NAMES[UNK], "bos_token": NAMES[BOS], "eos_token": NAMES[EOS]}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return folder


def read_model(path: Path) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Config and tensors of a .bin file in its first layout, a shared head where the vocabulary's sign is positive."""
    raw = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack("<7i", raw[:28])
    values, at = np.frombuffer(raw, dtype="<f4", offset=28), 0

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        count = int(np.prod(shape))
        at += count
        return values[at - count : at].reshape(shape)

    head_dim = dim // heads
    kv = kv_heads * head_dim
    embed = take(abs(vocab), dim)
    parts = {
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": half_split(take(layers, dim, dim), heads),
        "self_attn.k_proj": half_split(take(layers, kv, dim), kv_heads),
        "self_attn.v_proj": take(layers, kv, dim),
        "self_attn.o_proj": take(layers, dim, dim),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, hidden, dim),
        "mlp.down_proj": take(layers, dim, hidden),
        "mlp.up_proj": take(layers, hidden, dim),
    }
    tensors = {"model.embed_tokens.weight": embed, "model.norm.weight": take(dim)}
    take(2, context, head_dim // 2)  # cosine and sine tables
    if vocab < 0:
        tensors["lm_head.weight"] = take(-vocab, dim)
    assert at == len(values), (at, len(values))
    for name, stack in parts.items():
        for layer in range(layers):
            tensors[f"model.layers.{layer}.{name}.weight"] = np.ascontiguousarray(stack[layer])
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": abs(vocab),
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": vocab > 0,
        "bos_token_id": BOS,
        "eos_token_id": [BOS, EOS],  # stories are parted by the beginning token
        "torch_dtype": "float32",
    }
    return config, tensors


def half_split(stack: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from rotary pairs side by side to pairs half a head apart.  # [L, H·D, K] f32."""
    layers, rows, inputs = stack.shape
    pairs = stack.reshape(layers, heads, rows // heads // 2, 2, inputs)
    return np.ascontiguousarray(pairs.swapaxes(2, 3)).reshape(stack.shape)


def read_pieces(path: Path, vocab: int) -> list[tuple[str, float]]:
    """(piece, score) by id, with the space mark that tokenizers use."""
    raw, at, found = path.read_bytes(), 4, []
    for token in range(vocab):
        score, length = struct.unpack_from("<fi", raw, at)
        text = raw[at + 8 : at + 8 + length].decode("utf-8")
        at += 8 + length
        found.append((NAMES.get(token, text if token < FIRST_PIECE else text.replace(" ", "▁")), score))
    return found


def make_tokenizer(pieces: list[tuple[str, float]]) -> Tokenizer:
    """The tokenizer that joins pieces as llama2.c does: best score first, bytes for what is unknown."""
    ids = {piece: token for token, (piece, _) in enumerate(pieces)}
    plain = {piece for piece, _ in pieces[FIRST_PIECE:]}
    merges = []
    for piece, score in pieces[FIRST_PIECE:]:
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(left, right) for left, right in splits if left in plain and right in plain]
        merges += [(-score, ids[left], ids[right], left, right) for left, right in known]
    merges.sort()
    model = models.BPE(
        vocab=ids,
        merges=[(left, right) for *_, left, right in merges],
        unk_token=NAMES[UNK],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{NAMES[BOS]} $A", pair=f"{NAMES[BOS]} $A {NAMES[BOS]} $B", special_tokens=[(NAMES[BOS], BOS)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in NAMES.values()])
    return tokenizer
