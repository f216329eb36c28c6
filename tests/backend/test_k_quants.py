"""What an ordinary Q4_K_M file holds, Q4_K and Q6_K matrices and F32 norms, from the file to the logits.

The blocks are quantized here in plain numpy, without any search for the best scales; gguf-py reads them back as the
oracle's weights.
"""

import itertools
import sys

import gguf
import numpy as np
import pytest
from tests.backend.driver import Driver, logits_of_every_position, make_backend
from tests.backend.reference import reference_logits, round_int8
from tests.backend.test_packing import stored as blocks_of
from tests.model.made_models import interleave
from tests.resident import resident

from penstock.backend.cpu import compute_tiers
from penstock.formats import CODE_FORMATS, Storage
from penstock.model import open_checkpoint

KINDS = gguf.GGMLQuantizationType
HIDDEN, HEADS, KV_HEADS, HEAD, FFN, VOCAB, LAYERS = 256, 4, 2, 64, 512, 320, 2
MATRICES = {
    "q": ("attn_q", (HEADS * HEAD, HIDDEN), KINDS.Q4_K),
    "k": ("attn_k", (KV_HEADS * HEAD, HIDDEN), KINDS.Q4_K),
    "v": ("attn_v", (KV_HEADS * HEAD, HIDDEN), KINDS.Q6_K),
    "o": ("attn_output", (HIDDEN, HEADS * HEAD), KINDS.Q4_K),
    "gate": ("ffn_gate", (FFN, HIDDEN), KINDS.Q4_K),
    "up": ("ffn_up", (FFN, HIDDEN), KINDS.Q4_K),
    "down": ("ffn_down", (HIDDEN, FFN), KINDS.Q6_K),
}
TOKENS = [int(t) for t in np.random.default_rng(5).integers(0, VOCAB, 24)]


def halves(values):
    return values.astype(np.float16).view(np.uint8).reshape(len(values), 2)


def divide(values, steps):
    return np.divide(values, steps, out=np.zeros_like(values), where=steps != 0)


def quantize_q4_k(values):
    """[n, 144] u8: eight groups of 32 codes, a 6-bit scale and minimum each."""
    groups = values.reshape(-1, 8, 32)
    lowest = np.minimum(groups.min(2), 0)
    wanted, minima = (groups.max(2) - lowest) / 15, -lowest
    top = np.stack([wanted.max(1), minima.max(1)], 1).astype(np.float32) / 63
    top = top.astype(np.float16).astype(np.float32)
    scales, mins = (
        np.clip(np.rint(divide(x, top[:, i : i + 1] + 0 * x)), 0, 63).astype(np.uint8)
        for i, x in enumerate((wanted, minima))
    )
    step, base = (top[:, 0:1] * scales)[..., None], (top[:, 1:2] * mins)[..., None]
    codes = np.clip(np.rint(divide(groups + base, step + 0 * groups)), 0, 15).astype(np.uint8).reshape(-1, 4, 2, 32)
    low = scales[:, :4] | (scales[:, 4:] >> 4 << 6)
    middle = mins[:, :4] | (mins[:, 4:] >> 4 << 6)
    rest = (scales[:, 4:] & 15) | ((mins[:, 4:] & 15) << 4)
    packed = (codes[:, :, 0] | (codes[:, :, 1] << 4)).reshape(-1, 128)
    return np.concatenate([halves(top[:, 0:1]), halves(top[:, 1:2]), low, middle, rest, packed], 1)


def quantize_q6_k(values):
    """[n, 210] u8: sixteen groups of 16 codes around 32, a signed byte scale each."""
    groups = values.reshape(-1, 16, 16)
    wanted = np.abs(groups).max(2) / 31
    top = (wanted.max(1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    scales = np.clip(np.rint(divide(wanted, top + 0 * wanted)), 0, 127).astype(np.int8)
    step = (top * scales)[..., None]
    codes = np.clip(np.rint(divide(groups, step + 0 * groups)), -32, 31).astype(np.int8) + 32
    codes = codes.astype(np.uint8).reshape(-1, 2, 128)
    low = (codes[:, :, :64] & 15) | ((codes[:, :, 64:] & 15) << 4)
    quarters = (codes >> 4).reshape(-1, 2, 4, 32)
    high = quarters[:, :, 0] | (quarters[:, :, 1] << 2) | (quarters[:, :, 2] << 4) | (quarters[:, :, 3] << 6)
    return np.concatenate([low.reshape(-1, 128), high.reshape(-1, 64), scales.view(np.uint8), halves(top)], 1)


QUANTIZE = {KINDS.Q4_K: quantize_q4_k, KINDS.Q6_K: quantize_q6_k}


def stored(values, kind):
    """(the file's bytes, the values that they stand for) of a matrix."""
    raw = QUANTIZE[kind](values.reshape(-1, 256)).reshape(len(values), -1)
    return raw, gguf.quants.dequantize(raw, kind)


@pytest.mark.parametrize("kind", QUANTIZE)
def test_the_blocks_are_sound(kind):
    values = np.random.default_rng(1).standard_normal((64, 512)).astype(np.float32)
    error = np.abs(stored(values, kind)[1] - values).max()
    assert error < (0.3 if kind is KINDS.Q4_K else 0.08)


def random_blocks(seed, shape, kind):
    """(random bytes under ordinary scales, the values that they stand for)."""
    raw = blocks_of("w", shape, Storage(kind.name), seed).data.reshape(shape[0], -1)
    return raw, gguf.quants.dequantize(raw, kind)


EVERY = [gguf.GGMLQuantizationType[kind.value] for kind in CODE_FORMATS]


def write(path, every=False):
    """A llama file of mixed kinds; returns place → the values that its bytes stand for.

    With `every`, matrices take turns with all kinds that are packed.
    """
    rng, want, turns = np.random.default_rng(0), {}, itertools.cycle(EVERY)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)

    def matrix(place, name, shape, kind, heads=0):
        if every:
            kind = next(turns)
            raw, want[place] = random_blocks(len(want), shape, kind)
        else:
            values = (rng.standard_normal(shape) * 1.5 / np.sqrt(shape[1])).astype(np.float32)
            raw, want[place] = stored(values, kind)
        writer.add_tensor(name, interleave(raw, heads) if heads else raw, raw_dtype=kind)

    def norm(place, name):
        want[place] = (1 + 0.2 * rng.standard_normal(HIDDEN)).astype(np.float32)
        writer.add_tensor(name, want[place])

    matrix("embed", "token_embd.weight", (VOCAB, HIDDEN), KINDS.Q4_K)
    matrix("head", "output.weight", (VOCAB, HIDDEN), KINDS.Q6_K)
    norm("final_norm", "output_norm.weight")
    for layer in range(LAYERS):
        for place, (name, shape, kind) in MATRICES.items():
            heads = {"q": HEADS, "k": KV_HEADS}.get(place, 0)
            matrix(f"layers.{layer}.{place}", f"blk.{layer}.{name}.weight", shape, kind, heads)
        norm(f"layers.{layer}.attn_norm", f"blk.{layer}.attn_norm.weight")
        norm(f"layers.{layer}.mlp_norm", f"blk.{layer}.ffn_norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return want


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(checkpoint, logits of the oracle [T, V], its weights)."""
    path = tmp_path_factory.mktemp("mixed") / "mixed.gguf"
    weights = write(path)
    checkpoint = open_checkpoint(path)
    assert not checkpoint.spec.layers[0].attention.rope.interleaved
    kinds = {ref.tensor.storage for ref in checkpoint.weights.tensors.values()}
    assert kinds == {Storage.Q4_K, Storage.Q6_K, Storage.F32}
    return checkpoint, reference_logits(checkpoint.spec, weights, TOKENS, 128, round_int8), weights


def distance(found, want):
    return np.abs(found - want).max() / np.abs(want).max()


@pytest.mark.parametrize("tier", compute_tiers())
def test_logits_are_those_of_the_dequantized_weights(model, tier, tmp_path):
    checkpoint, want, _ = model
    backend = make_backend(
        checkpoint.spec, checkpoint.weights, max_model_tokens=128, isa=tier, pack_cache=str(tmp_path)
    )
    found = logits_of_every_position(Driver(backend), 0, TOKENS)
    assert distance(found, want) < 2e-3  # a tie rounded the other way costs about that
    again = make_backend(checkpoint.spec, checkpoint.weights, max_model_tokens=128, isa=tier, pack_cache=str(tmp_path))
    np.testing.assert_array_equal(logits_of_every_position(Driver(again), 0, TOKENS), found)


@pytest.mark.parametrize("tier", compute_tiers())
def test_a_file_of_every_kind_has_the_logits_of_its_weights(tmp_path, tier):
    path = tmp_path / "every.gguf"
    weights = write(path, every=True)
    checkpoint = open_checkpoint(path)
    kinds = {ref.tensor.storage for ref in checkpoint.weights.tensors.values()}
    assert kinds == {*CODE_FORMATS, Storage.F32}
    want = reference_logits(checkpoint.spec, weights, TOKENS, 128, round_int8)
    for _ in range(2):  # repacked, then from the cache
        backend = make_backend(
            checkpoint.spec, checkpoint.weights, max_model_tokens=128, isa=tier, pack_cache=str(tmp_path / "cache")
        )
        found = logits_of_every_position(Driver(backend), 0, TOKENS)
        assert distance(found, want) < 2e-3
    one_wrong = weights | {"layers.0.up": np.roll(weights["layers.0.up"], 1, axis=0)}
    assert distance(found, reference_logits(checkpoint.spec, one_wrong, TOKENS, 128, round_int8)) > 0.01


def test_every_tier_gives_the_same_bits_in_one_chunk(model):
    checkpoint, want, _ = model
    found = []
    for tier in compute_tiers():
        driver = Driver(make_backend(checkpoint.spec, checkpoint.weights, max_model_tokens=128, isa=tier))
        driver.open(0, TOKENS)
        found.append(driver.prefill(0, TOKENS, [])[0][1])
    assert distance(found[0][-1], want[-1]) < 2e-3
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("place", ["embed", "layers.0.q", "layers.1.v", "layers.1.down", "head"])
def test_control_one_wrong_matrix_is_seen(model, place):
    checkpoint, _, weights = model
    wrong = reference_logits(
        checkpoint.spec, weights | {place: np.roll(weights[place], 1, axis=0)}, TOKENS, 128, round_int8
    )
    found = logits_of_every_position(
        Driver(make_backend(checkpoint.spec, checkpoint.weights, max_model_tokens=128)), 0, TOKENS
    )
    assert distance(found, wrong) > 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="resident pages are read from /proc")
@pytest.mark.parametrize("cached", [False, True])
def test_a_repacked_file_is_no_longer_resident(tmp_path, cached):
    path = tmp_path / "resident.gguf"
    write(path)
    cache = str(tmp_path / "cache")
    if cached:
        checkpoint = open_checkpoint(path)
        make_backend(checkpoint.spec, checkpoint.weights, max_model_tokens=128, pack_cache=cache)
        del checkpoint
    checkpoint = open_checkpoint(path)
    for ref in checkpoint.weights.tensors.values():
        ref.tensor.data.sum()
    assert resident(path) > 0.9 * path.stat().st_size
    backend = make_backend(checkpoint.spec, checkpoint.weights, max_model_tokens=128, pack_cache=cached and cache)
    assert resident(path) < 0.2 * path.stat().st_size
    found = logits_of_every_position(Driver(backend), 0, TOKENS[:2])
    assert np.isfinite(found).all()


def test_control_activations_of_full_precision_are_seen(model):
    checkpoint, want, weights = model
    assert distance(reference_logits(checkpoint.spec, weights, TOKENS, 128), want) > 0.01
