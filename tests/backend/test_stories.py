"""A real published checkpoint, token for token: 200 greedy steps of stories260K."""

import struct
from pathlib import Path

import numpy as np
import pytest
from tests.backend.driver import Driver, make_backend
from tests.backend.reference import greedy, weight_map

from penstock.model import Attention, DecoderSpec, Layer, Mlp, Rope

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "tiny_model"
BOS = 1

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="shared/data/tiny_model is absent")


def read_checkpoint():
    """The llama2.c file as (spec, weights): rotation on interleaved pairs, as it was trained."""
    raw = (FOLDER / "stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, seq = struct.unpack_from("<7i", raw)
    values, at = np.frombuffer(raw, dtype=np.float32, offset=28), 0

    def take(*shape):
        nonlocal at
        count = int(np.prod(shape))
        out = values[at : at + count].reshape(shape)
        at += count
        return out

    kv_dim = dim * kv_heads // heads
    weights = {"embed": take(vocab, dim)}
    for name, shape in (
        ("attn_norm", (dim,)),
        ("q", (dim, dim)),
        ("k", (kv_dim, dim)),
        ("v", (kv_dim, dim)),
        ("o", (dim, dim)),
        ("mlp_norm", (dim,)),
        ("gate", (hidden, dim)),
        ("down", (dim, hidden)),
        ("up", (hidden, dim)),
    ):
        stacked = take(layers, *shape)
        weights |= {f"layers.{i}.{name}": stacked[i] for i in range(layers)}
    weights["final_norm"] = take(dim)
    head_dim = dim // heads
    attention = Attention(
        heads, kv_heads, head_dim, head_dim**-0.5, Rope(theta=10000.0, dims=head_dim, interleaved=True)
    )
    spec = DecoderSpec(
        family="llama",
        hidden=dim,
        vocab=vocab,
        layers=(Layer(attention, Mlp(hidden)),) * layers,
        norm_eps=1e-5,
        max_tokens=seq,
        tied_head=True,
    )
    return spec, weights


def half_split(spec, weights):
    """The same model in the layout of Hugging Face checkpoints: rows of q and k permuted, pairs (i, i + D/2)."""
    att = spec.layers[0].attention
    order = np.concatenate([np.arange(0, att.head_dim, 2), np.arange(1, att.head_dim, 2)])
    out = dict(weights)
    for index in range(len(spec.layers)):
        for name, heads in (("q", att.num_heads), ("k", att.num_kv_heads)):
            rows = (np.arange(heads)[:, None] * att.head_dim + order).reshape(-1)
            out[f"layers.{index}.{name}"] = weights[f"layers.{index}.{name}"][rows]
    rope = Rope(theta=10000.0, dims=att.head_dim)
    attention = Attention(att.num_heads, att.num_kv_heads, att.head_dim, att.scale, rope)
    layer = Layer(attention, spec.layers[0].mlp)
    return DecoderSpec(
        family="llama",
        hidden=spec.hidden,
        vocab=spec.vocab,
        layers=(layer,) * len(spec.layers),
        norm_eps=spec.norm_eps,
        max_tokens=spec.max_tokens,
        tied_head=True,
    ), out


def read_pieces():
    raw, pieces = (FOLDER / "tok512.bin").read_bytes(), []
    at = 4
    while at < len(raw):
        length = struct.unpack_from("<i", raw, at + 4)[0]
        pieces.append(raw[at + 8 : at + 8 + length])
        at += 8 + length
    return pieces


def decode(tokens):
    pieces, out, previous = read_pieces(), b"", BOS
    for token in tokens:
        if token == BOS:
            break
        piece = pieces[token]
        if previous == BOS and piece.startswith(b" "):
            piece = piece[1:]
        out += bytes([int(piece[3:5], 16)]) if piece.startswith(b"<0x") else piece
        previous = token
    return out.decode()


def generate(spec, weights, steps, **options):
    backend = make_backend(spec, weight_map(weights), max_model_tokens=spec.max_tokens, **options)
    driver = Driver(backend)
    driver.open(0, (BOS,))
    token, out = BOS, []
    for position in range(steps):
        token = driver.step(driver.row(0, position, (token,))).rows[0].tokens[0]
        out.append(token)
    return out


@pytest.mark.parametrize("layout", ["interleaved", "half_split"])
def test_200_greedy_steps_are_exact(layout):
    spec, weights = read_checkpoint()
    if layout == "half_split":
        spec, weights = half_split(spec, weights)
    expected = (FOLDER / "expected_greedy_200_steps.txt").read_text()
    assert decode(generate(spec, weights, 200)).strip() == expected.strip()


def test_control_a_changed_weight_changes_the_text():
    spec, weights = read_checkpoint()
    weights = weights | {"layers.2.down": weights["layers.2.down"] * np.float32(1.2)}
    expected = (FOLDER / "expected_greedy_200_steps.txt").read_text()
    assert decode(generate(spec, weights, 200)).strip() != expected.strip()


def test_reference_gives_the_same_tokens():
    spec, weights = read_checkpoint()
    assert greedy(spec, weights, [BOS], 40, spec.max_tokens) == generate(spec, weights, 40)
