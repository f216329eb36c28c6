import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.samples import limits

from penstock.assemble import find_model
from penstock.bench.work import ARITHMETIC, BANDWIDTH, Needs, Share, Work, kept, pairs
from penstock.formats import RawTensor, Storage
from penstock.model import KV_COSTS, Attention, DecoderSpec, Layer, Mlp, WeightMap, WeightRef, open_checkpoint, places


def attention(window=None):
    return Attention(num_heads=4, num_kv_heads=2, head_dim=8, scale=1.0, rope=None, window=window)


def model(layers, storage=Storage.BF16, tied=True):
    spec = DecoderSpec("x", 32, 100, tuple(layers), 1e-6, 1024, tied_head=tied)
    refs = {
        place: WeightRef(RawTensor(place, storage if len(shape) == 2 else Storage.F32, shape, None))
        for place, shape in places(spec).items()
    }
    return spec, WeightMap(refs, "", (), 0)


@given(st.integers(0, 40), st.integers(1, 40), st.one_of(st.none(), st.integers(1, 50)))
def test_pairs_are_those_that_a_mask_lets_through(start, tokens, window):
    share = Share(start, tokens)
    seen = sum(
        1
        for query in range(start, start + tokens)
        for key in range(query + 1)
        if window is None or query - key < window
    )
    assert pairs(attention(window), share) == seen
    before = {k for q in range(start, start + tokens) for k in range(start) if window is None or q - k < window}
    assert kept(attention(window), share) == len(before)


def test_a_dense_model_by_hand():
    spec, weights = model([Layer(attention(), Mlp(64))] * 3)
    dense = 3 * (32 * 32 * 2 + 2 * 16 * 32 + 3 * 32 * 64)
    needs = Work(spec, weights, "bf16").needs([Share(10, 1), Share(5, 4, samples=False)])
    kv = 2 * 2 * 8 * 2 * 3  # bytes that one token keeps
    assert needs.bytes == 2 * (dense + 100 * 32) + 5 * 32 * 2 + kv * (10 + 5)
    scores = 3 * (2 * 2 * 4 * 8) * (11 + 6 + 7 + 8 + 9)
    assert (needs.int_ops, needs.float_ops) == (0, 2 * (dense * 5 + 100 * 32) + scores)
    silent = Work(spec, weights, "f32").needs([Share(0, 1, samples=False)])
    assert silent.bytes == 2 * dense + 64  # nobody samples: the head is not read


def test_int8_kv_counts_its_scales():
    spec, weights = model([Layer(attention(), Mlp(64))] * 3)
    read = {
        kv_type: Work(spec, weights, kv_type).needs([Share(100, 1)]).bytes
        - Work(spec, weights, kv_type).needs([Share(0, 1)]).bytes
        for kv_type in KV_COSTS
    }
    vectors = 3 * 2 * 2 * 100  # keys and values of two heads in three layers
    assert read == {"f32": vectors * 32, "bf16": vectors * 16, "int8": vectors * (8 + 4)}


def test_group_codes_count_as_integers_and_their_own_size():
    spec, weights = model([Layer(attention(), Mlp(64))], Storage.Q8_0, tied=False)
    dense = 32 * 32 * 2 + 2 * 16 * 32 + 3 * 32 * 64
    needs = Work(spec, weights, "f32").needs([Share(0, 2)])
    assert needs.int_ops == 2 * (2 * dense + 3200) and needs.float_ops == 2 * (2 * 4 * 8) * 3
    assert needs.bytes == (dense + 3200) * 34 // 32 + 2 * 34


def test_experts_are_read_as_far_as_they_are_chosen():
    spec, weights = model([Layer(attention(), Mlp(64, num_experts=8, experts_per_token=2))])
    work = Work(spec, weights, "bf16")
    one, many = work.needs([Share(0, 1)]), work.needs([Share(0, 1000)])
    expert = 3 * 32 * 64 * 2
    rest = 2 * (32 * 32 * 2 + 2 * 16 * 32 + 8 * 32 + 100 * 32)
    assert one.bytes == rest + 64 + 2 * expert
    assert many.bytes == rest + 64 * 1000 + 8 * expert
    dense = Work(*model([Layer(attention(), Mlp(64 * 8))]), "bf16").needs([Share(0, 1)])
    assert dense.bytes > one.bytes and dense.float_ops > 2 * one.float_ops / 1.5  # control


def test_the_bytes_of_a_real_checkpoint_are_those_of_its_file():
    checkpoint = open_checkpoint(find_model(None))
    vectors = sum(r.tensor.data.nbytes for r in checkpoint.weights.tensors.values() if len(r.tensor.shape) == 1)
    needs = Work(checkpoint.spec, checkpoint.weights, "bf16").needs([Share(0, 1)])
    row = checkpoint.spec.hidden * 2
    assert needs.bytes == checkpoint.weights.total_bytes - vectors + row


def test_the_limit_is_the_slower_of_reading_and_computing():
    machine = limits()  # 30 GB/s, 900 Gop/s, 200 Gflop/s
    assert Needs(30_000_000_000, 0, 0).limit(machine) == (1.0, BANDWIDTH)
    seconds, bound = Needs(1, 900_000_000_000, 100_000_000_000).limit(machine)
    assert (seconds, bound) == (pytest.approx(1.5), ARITHMETIC)
    slow = dataclasses.replace(machine, limits=tuple(o for o in machine.limits if o.threads == 1), threads=1)
    assert Needs(30_000_000_000, 0, 0).limit(slow) == (2.0, BANDWIDTH)
