"""Mixtures of experts against the float64 reference, and their rows' bits under any company."""

import mmap
import sys

import gguf
import numpy as np
import pytest
from tests.backend.driver import Driver, logits_of_every_position, make_backend
from tests.backend.reference import make_spec, random_weights, reference_logits, round_int8, weight_map
from tests.resident import resident

from penstock.backend.cpu import compute_tiers
from penstock.core import NO_OUTPUT
from penstock.formats import RawTensor, Storage
from penstock.model import Activation, QkNorm, WeightMap, WeightRef, places

TIERS = compute_tiers()
TOLERANCE = 2e-5
SHARED = {"shared_intermediate": 40, "shared_gate": True}
VARIANTS = {
    "mixtral": {"num_experts": 8, "experts_per_token": 2, "norm_topk": True},
    "qwen2_moe": {"num_experts": 6, "experts_per_token": 4, **SHARED},
    "olmoe": {"num_experts": 16, "experts_per_token": 8, "qk_norm": QkNorm.ALL, "qkv_clip": 1.0},
    "gpt_oss": {
        "num_experts": 5,
        "experts_per_token": 3,
        "norm_topk": True,
        "router_bias": True,
        "bias": True,
        "activation": Activation.SWIGLU_OAI,
        "clamp": 1.5,
        "sinks": True,
        "window": 20,
    },
    "one expert": {"num_experts": 1, "experts_per_token": 1},
    "all experts": {"num_experts": 4, "experts_per_token": 4, "shared_intermediate": 24},
    "odd sizes": {"num_experts": 7, "experts_per_token": 3, "intermediate": 37, "hidden": 50},
}


def tokens_of(count, vocab=131, seed=1):
    return [int(t) for t in np.random.default_rng(seed).integers(0, vocab, count)]


def worst(got, reference):
    return float(np.abs(got - reference).max() / np.abs(reference).max())


def prefill(spec, weights, tokens, chunks=(), **options):
    """Logits after the last token. [V] f32"""
    driver = Driver(make_backend(spec, weights, **options))
    driver.open(0, tokens)
    return driver.prefill(0, tokens, list(chunks))[-1][1][0]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_mixture_agrees_with_the_reference(name):
    spec = make_spec(**VARIANTS[name])
    weights, tokens = random_weights(spec), tokens_of(90)
    reference = reference_logits(spec, weights, tokens, 512)
    driver = Driver(make_backend(spec, weight_map(weights)))
    assert worst(logits_of_every_position(driver, 0, tokens), reference) < TOLERANCE
    assert worst(prefill(spec, weight_map(weights), tokens, [40, 33]), reference[-1]) < TOLERANCE


BROKEN = {
    "mixtral": [{"norm_topk": False}, {"experts_per_token": 3}],
    "qwen2_moe": [{"norm_topk": True}, {"shared_gate": False}, {"shared_intermediate": 0, "shared_gate": False}],
    "gpt_oss": [{"router_bias": False}, {"activation": Activation.SILU}, {"clamp": 0.0}, {"bias": False}],
}


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in BROKEN for change in BROKEN[name]])
def test_control_a_mixture_of_other_rules_fails_the_tolerance(name, change):
    spec, other = make_spec(**VARIANTS[name]), make_spec(**(VARIANTS[name] | change))
    weights, tokens = random_weights(spec), tokens_of(30)
    got = prefill(other, weight_map(weights), tokens)
    assert worst(got, reference_logits(spec, weights, tokens, 512)[-1]) > 50 * TOLERANCE


@pytest.mark.parametrize("place", ["router", "experts.3.up", "experts.5.down", "shared.gate", "shared.router"])
def test_control_a_perturbed_weight_fails_the_tolerance(place):
    spec = make_spec(**VARIANTS["qwen2_moe"])
    weights, tokens = random_weights(spec), tokens_of(60)
    moved = weights[f"layers.1.{place}"] * 1.01
    got = prefill(spec, weight_map(weights | {f"layers.1.{place}": moved}), tokens)
    driver = Driver(make_backend(spec, weight_map(weights | {f"layers.1.{place}": moved})))
    got = logits_of_every_position(driver, 0, tokens)
    assert worst(got, reference_logits(spec, weights, tokens, 512)) > 5 * TOLERANCE


def test_ties_go_to_the_lower_expert():
    """All logits equal: experts 0 and 1 are taken, whatever the others would bring."""
    spec = make_spec(**VARIANTS["mixtral"])
    weights, tokens = random_weights(spec), tokens_of(20)
    for layer in range(2):
        weights[f"layers.{layer}.router"][:] = weights[f"layers.{layer}.router"][0]
        for expert in range(2, 8):
            weights[f"layers.{layer}.experts.{expert}.up"][:] = np.nan
    got = prefill(spec, weight_map(weights), tokens)
    assert np.isfinite(got).all()
    weights["layers.0.experts.1.up"][:] = np.nan
    assert not np.isfinite(prefill(spec, weight_map(weights), tokens)).any()


def test_a_router_that_is_not_finite_fails_its_row_alone():
    spec = make_spec(**VARIANTS["qwen2_moe"])
    weights = random_weights(spec)
    weights["embed"][7] = np.nan
    driver = Driver(make_backend(spec, weight_map(weights)))
    driver.open(0, [1, 2, 3])
    driver.open(1, [1, 7, 3])
    rows = driver.step(driver.row(1, 0, [1, 7, 3]), driver.row(0, 0, [1, 2, 3])).rows
    alone = Driver(make_backend(spec, weight_map(weights)))
    alone.open(0, [1, 2, 3])
    assert rows[0].error == "invalid_logits"
    assert rows[1].tokens == alone.step(alone.row(0, 0, [1, 2, 3])).rows[0].tokens


# --- Quantized experts ---------------------------------------------------------------------------------------------


def quantized(weights):
    """(map with Q8_0 matrices beside float routers, what its bytes stand for)."""
    refs, values = dict(weight_map(weights).tensors), dict(weights)
    for name, value in weights.items():
        if value.ndim == 2 and not name.endswith("router"):
            raw = gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q8_0)
            refs[name] = WeightRef(RawTensor(name, Storage.Q8_0, value.shape, np.ascontiguousarray(raw).reshape(-1)))
            values[name] = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)
    return WeightMap(refs, "11" * 32, (), 0), values


CODED = make_spec(
    num_experts=8,
    experts_per_token=3,
    norm_topk=True,
    hidden=64,
    intermediate=96,
    **SHARED | {"shared_intermediate": 32},
)


@pytest.fixture(scope="module")
def coded():
    return quantized(random_weights(CODED, seed=3))


@pytest.mark.parametrize("tier", TIERS)
def test_quantized_experts_agree_with_the_reference(coded, tier):
    weights, values = coded
    tokens = tokens_of(40)
    want = reference_logits(CODED, values, tokens, 512, round_int8)
    got = logits_of_every_position(Driver(make_backend(CODED, weights, isa=tier)), 0, tokens)
    assert worst(got, want) < 2e-3  # a tie rounded the other way costs about that
    assert worst(got, reference_logits(CODED, values, tokens, 512)) > 4e-3  # control: inputs of full precision are seen


PROMPT = tokens_of(75)


@pytest.fixture(scope="module")
def expected(coded):
    return prefill(CODED, coded[0], PROMPT).tobytes()


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("chunks", [(), (1,) * 74, (7, 40), (64,)])
def test_chunks_tiers_and_threads_do_not_matter(coded, expected, tier, threads, chunks):
    assert prefill(CODED, coded[0], PROMPT, chunks, isa=tier, threads=threads).tobytes() == expected


@pytest.mark.parametrize("lengths", [(1,), (30, 1, 9), (60, 60, 60)])
@pytest.mark.parametrize("threads", [1, 2])
def test_batch_mates_do_not_matter(coded, expected, lengths, threads):
    """Whoever shares an expert with a token: its bits stay."""
    driver = Driver(make_backend(CODED, coded[0], threads=threads))
    mates = {slot + 1: tokens_of(length, seed=slot + 9) for slot, length in enumerate(lengths)}
    driver.open(0, PROMPT)
    for slot, tokens in mates.items():
        driver.open(slot, tokens)
    rows = [driver.row(slot, 0, tokens) for slot, tokens in mates.items()]
    driver.step(*rows[:1], driver.row(0, 0, PROMPT[:30], NO_OUTPUT), *rows[1:])
    more = [driver.row(slot, len(tokens), (3,)) for slot, tokens in mates.items()]
    _, logits = driver.step(*more, driver.row(0, 30, PROMPT[30:]), logits=True)
    assert logits[-1].tobytes() == expected


def test_control_another_expert_weight_changes_the_bits(coded, expected):
    weights = random_weights(CODED, seed=3)
    weights["layers.0.experts.2.down"][0, 0] += 0.5
    assert prefill(CODED, quantized(weights)[0], PROMPT).tobytes() != expected


def test_turns_of_tokens_do_not_matter():
    """Experts so wide that their scratch holds some eighty tokens: more go in turns."""
    spec = make_spec(num_layers=1, num_experts=4, experts_per_token=4, hidden=32, intermediate=32768)
    weights, tokens = weight_map(random_weights(spec), Storage.BF16), tokens_of(200)
    assert prefill(spec, weights, tokens).tobytes() == prefill(spec, weights, tokens, [60, 60, 60]).tobytes()


# --- Bytes read -----------------------------------------------------------------------------------------------------

WIDE = {"num_layers": 1, "num_experts": 32, "hidden": 256, "intermediate": 512}  # 768 KiB an expert


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """(file of BF16 experts, each one's matrices side by side; a function that maps it anew as a whole model)."""
    spec, rng = make_spec(**WIDE, experts_per_token=1), np.random.default_rng(2)
    shapes = places(spec)
    experts = [name for name in shapes if ".experts." in name]
    assert experts == sorted(experts, key=lambda name: int(name.split(".")[3]))
    path = tmp_path_factory.mktemp("experts") / "experts.bf16"
    with path.open("wb") as file:
        for name in experts:
            file.write(rng.integers(0x3A00, 0x3C00, shapes[name], dtype=np.uint16))
    rest = weight_map({name: rng.standard_normal(shapes[name]) for name in shapes if name not in experts})

    def open_map():
        with path.open("rb") as file:
            data, at = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8), 0
        refs = dict(rest.tensors)
        for name in experts:
            size = 2 * shapes[name][0] * shapes[name][1]
            refs[name] = WeightRef(RawTensor(name, Storage.BF16, shapes[name], data[at : at + size]))
            at += size
        assert at == len(data)
        return WeightMap(refs, "", (), 0)

    yield path, open_map
    path.unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="resident pages are read from /proc")
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("active", [2, 32])
def test_one_token_reads_the_bytes_of_its_experts_alone(mapped, active, tier):
    """The control is the model all of whose experts are active: there every byte is read."""
    path, open_map = mapped
    size, spec = path.stat().st_size, make_spec(**WIDE, experts_per_token=active)
    driver = Driver(make_backend(spec, open_map(), isa=tier, threads=2))
    assert resident(path) < 0.01 * size
    driver.open(0, [5])
    assert driver.step(driver.row(0, 0, [5])).rows[0].error is None
    assert active / 32 <= resident(path) / size <= active / 32 + 0.02  # a fault brings a few neighbours along
