"""Group codes from stored blocks to logits: exact embeddings, near logits, the cache on disk, one file's views."""

import numpy as np
import pytest
from tests.backend.driver import Driver, await_pack_cache, logits_of_every_position, make_backend
from tests.backend.reference import make_spec, random_weights, reference_logits, weight_map

from penstock.backend.cpu import compute_tiers, packing
from penstock.formats import BLOCKS, CODE_FORMATS, RawTensor, Storage, num_bytes, pack, unpack
from penstock.model import WeightMap, WeightRef

CODED = list(CODE_FORMATS)
SPEC = make_spec(hidden=256, intermediate=512, num_heads=4, num_kv_heads=2, head_dim=64, scale=0.125, vocab=150)
PLACES = ("q", "k", "v", "o", "gate", "up", "down")
# Where a block has half-precision numbers, and of what size: scales and minima that give values of an ordinary spread.
HALVES = {
    Storage.Q8_0: {0: 6e-4},
    Storage.Q4_0: {0: 9e-3},
    Storage.Q4_1: {0: 9e-3, 2: -0.07},
    Storage.Q5_0: {0: 5e-3},
    Storage.Q5_1: {0: 5e-3, 2: -0.08},
    Storage.Q2_K: {80: 5e-3, 82: 7.5e-3},
    Storage.Q3_K: {108: 1e-3},
    Storage.Q4_K: {0: 1e-4, 2: 7.5e-4},
    Storage.Q5_K: {0: 6e-5, 2: 9e-4},
    Storage.Q6_K: {208: 3e-5},
    Storage.IQ4_NL: {0: 6e-4},
    Storage.IQ4_XS: {0: 3e-5},
    Storage.MXFP4: {},
}


def stored(name, shape, storage, seed):
    """Random blocks whose values have about the spread of random_weights."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, num_bytes(storage, shape), dtype=np.uint8).reshape(-1, BLOCKS[storage].bytes)
    for at, size in HALVES[storage].items():
        halves = (rng.uniform(0.5, 1.0, len(data)) * size).astype(np.float16)
        data[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    if storage is Storage.MXFP4:
        data[:, 0] = rng.integers(119, 122, len(data))
    return RawTensor(name, storage, shape, data.reshape(-1))


def coded_model(storage, spec=SPEC, names=None):
    """(weight map with coded matrices, the same weights as f32 arrays)."""
    arrays = random_weights(spec)
    refs = dict(weight_map(arrays).tensors)
    for seed, (place, value) in enumerate(sorted(arrays.items())):
        if value.ndim == 2 and (names is None or place in names):
            raw = stored(place, value.shape, storage, seed)
            refs[place] = WeightRef(raw)
            arrays[place] = unpack(pack(raw))
    return WeightMap(refs, "ab" * 32, (), 0), arrays


def tokens_of(count):
    return [int(t) for t in np.random.default_rng(3).integers(0, SPEC.vocab, count)]


def run(weights, spec=SPEC, count=24, **options):
    found = logits_of_every_position(Driver(make_backend(spec, weights, **options)), 0, tokens_of(count))
    await_pack_cache()
    return found


@pytest.mark.parametrize("storage", CODED)
def test_coded_embeddings_are_exact(storage):
    weights, arrays = coded_model(storage, names=("embed",))
    assert run(weights).tobytes() == run(weight_map(arrays)).tobytes()


@pytest.mark.parametrize("storage", CODED)
def test_coded_models_are_near_the_reference_on_their_own_weights(storage):
    """Activations are rounded to int8 a group of 32, the weights are not touched."""
    weights, arrays = coded_model(storage)
    reference = reference_logits(SPEC, arrays, tokens_of(24), 512)
    got = run(weights)
    assert np.isfinite(reference).all()
    error = np.sqrt(((got - reference) ** 2).mean() / (reference**2).mean())
    assert 1e-6 < error < 0.03
    other, _ = coded_model(storage)
    moved = dict(other.tensors) | {"layers.1.v": other.tensors["layers.0.v"]}
    wrong = run(WeightMap(moved, other.identity, (), 0))
    assert np.sqrt(((wrong - reference) ** 2).mean() / (reference**2).mean()) > 0.03


@pytest.mark.parametrize("storage", CODED)
def test_coded_models_give_the_same_bits_on_every_tier_and_in_chunks(storage):
    weights, _ = coded_model(storage)
    bits = set()
    for tier in compute_tiers():
        for threads in (1, 2):
            for chunks in ([], [7, 1]):
                driver = Driver(make_backend(SPEC, weights, isa=tier, threads=threads))
                driver.open(0, tokens_of(20))
                bits.add(driver.prefill(0, tokens_of(20), chunks)[-1][1].tobytes())
    assert len(bits) == 1


def test_row_slices_and_permutations_are_taken():
    """Fused projections name slices of one tensor; a permutation orders the rows taken."""
    arrays = random_weights(SPEC)
    fused = np.concatenate([arrays["layers.0.q"], arrays["layers.0.k"], arrays["layers.0.v"]])
    refs = dict(weight_map(arrays).tensors)
    raw = RawTensor("qkv", Storage.F32, fused.shape, fused.reshape(-1).view(np.uint8))
    order = np.random.default_rng(1).permutation(128)
    shuffled = arrays["layers.0.v"][np.argsort(order)]
    refs["layers.0.q"] = WeightRef(raw, 0, 256)
    refs["layers.0.k"] = WeightRef(raw, 256, 128)
    refs["layers.0.v"] = WeightRef(
        RawTensor("v", Storage.F32, shuffled.shape, shuffled.reshape(-1).view(np.uint8)), rows=order
    )
    assert run(WeightMap(refs, "", (), 0)).tobytes() == run(weight_map(arrays)).tobytes()


def test_the_second_start_maps_the_cache(tmp_path):
    weights, _ = coded_model(Storage.Q4_0)
    first = run(weights, pack_cache=str(tmp_path))
    [file] = tmp_path.iterdir()
    written = file.stat().st_mtime_ns, file.read_bytes()
    assert run(weights, pack_cache=str(tmp_path)).tobytes() == first.tobytes()
    assert file.read_bytes() == written[1]
    assert run(weights).tobytes() == first.tobytes()


def test_a_changed_mapping_misses_the_cache(tmp_path):
    weights, _ = coded_model(Storage.Q4_0)
    run(weights, pack_cache=str(tmp_path), count=2)
    refs = dict(weights.tensors)
    refs["layers.0.q"] = WeightRef(refs["layers.0.q"].tensor, rows=np.arange(255, -1, -1))
    run(WeightMap(refs, weights.identity, (), 0), pack_cache=str(tmp_path), count=2)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_corrupt_cache_is_rewritten_with_one_line(tmp_path, caplog):
    weights, _ = coded_model(Storage.Q4_0)
    first = run(weights, pack_cache=str(tmp_path), count=3)
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    caplog.clear()
    assert run(weights, pack_cache=str(tmp_path), count=3).tobytes() == first.tobytes()
    assert len(caplog.records) == 1
    assert "ignored" in caplog.text


def test_a_model_beyond_the_caches_limit_is_packed_once_and_says_so(tmp_path, caplog, monkeypatch):
    packed = []
    monkeypatch.setattr(packing, "default_max_bytes", lambda folder: 10_000)
    monkeypatch.setattr(packing, "pack", lambda raw, *args, **more: packed.append(raw.name) or pack(raw, *args, **more))
    weights, _ = coded_model(Storage.Q4_K)
    run(weights, pack_cache=str(tmp_path), count=2)
    assert len(packed) == len(set(packed))
    assert not list(tmp_path.iterdir())
    assert len(caplog.records) == 1 and "larger than the cache's limit of 10000" in caplog.text


def test_float_models_write_no_cache(tmp_path):
    run(weight_map(random_weights(SPEC)), pack_cache=str(tmp_path), count=2)
    assert not list(tmp_path.iterdir())
