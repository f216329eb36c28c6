"""Mixtures beyond the zoo's: windows, layers without experts, stacks and MXFP4 agree with transformers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.backend.driver import Driver, await_pack_cache, make_backend
from tests.backend.reference import round_int8
from tests.backend.test_families import PAGES, TOLERANCE, draw_tokens, oracle, per_position
from tests.model.mxfp4_writing import save_mxfp4
from tests.model.zoo import MIXTURES, make_zoo_model, save

from penstock.model import open_checkpoint

CODED = 5e-3  # a value on the edge of two codes may fall to either side
CHUNKS = (1, 2, 14, 20, 11, 22)
VARIANTS = {
    "mixtral windowed": ("mixtral", {"sliding_window": 12}),
    "mixtral one expert": ("mixtral", {"num_experts_per_tok": 1, "tie_word_embeddings": True}),
    "qwen2_moe windowed": (
        "qwen2_moe",
        {
            "num_hidden_layers": 4,
            "use_sliding_window": True,
            "sliding_window": 12,
            "max_window_layers": 3,
            "mlp_only_layers": [1],
            "norm_topk_prob": True,
        },
    ),
    "qwen2_moe unbiased": ("qwen2_moe", {"qkv_bias": False, "num_experts_per_tok": 1}),
    "qwen3_moe windowed": (
        "qwen3_moe",
        {
            "num_hidden_layers": 4,
            "use_sliding_window": True,
            "sliding_window": 12,
            "attention_bias": True,
            "decoder_sparse_step": 2,
            "norm_topk_prob": False,
        },
    ),
    "olmoe biased": ("olmoe", {"attention_bias": True, "clip_qkv": None, "norm_topk_prob": True}),
    "gpt_oss clamped": ("gpt_oss", {"attention_bias": False, "swiglu_limit": 0.75, "num_experts_per_tok": 3}),
}


def run(checkpoint, tokens, weights=None, **options):
    """[chunks, V]: the logits at the end of each chunk, and the positions where they end."""
    driver = Driver(make_backend(checkpoint.spec, weights or checkpoint.weights, **options), page_order=PAGES)
    driver.open(0, tokens[: CHUNKS[0]])  # a row may sample from the end of what was opened on
    logits, ends, at = [], [], 0
    for size in CHUNKS:
        logits.append(driver.step(driver.row(0, at, tuple(tokens[at : at + size])), logits=True)[1][0])
        at += size
        ends.append(at - 1)
    return np.stack(logits), ends


def swapped(weights, layer, one, other):
    """The weights with two experts of a layer in each other's place."""
    first, second = f"layers.{layer}.experts.{one}.", f"layers.{layer}.experts.{other}."
    turned = {}
    for place in weights.tensors:
        for mine, theirs in ((first, second), (second, first)):
            if place.startswith(mine):
                turned[place] = weights.tensors[theirs + place.removeprefix(mine)]
    assert turned
    return replace(weights, tensors={**weights.tensors, **turned})


def perturbed(weights, place):
    """The weights with one value of an expert moved by its tensor's spread."""
    ref = weights.tensors[place]
    tensor = ref.tensor if ref.load is None else ref.load()
    values = tensor.data.view(np.float32).copy()
    values[7] += values.std()
    return replace(
        weights,
        tensors={
            **weights.tensors,
            place: replace(ref, tensor=replace(tensor, name=place, data=values.view(np.uint8)), load=None),
        },
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_agree_with_transformers(name, tmp_path):
    entry, changes = VARIANTS[name]
    model = make_zoo_model(entry, **changes)
    checkpoint = open_checkpoint(save(model, tmp_path))
    tokens = draw_tokens(model, sum(CHUNKS), 1)
    logits, ends = run(checkpoint, tokens)
    assert per_position(logits, oracle(model, tokens)[ends]) <= TOLERANCE


@pytest.mark.parametrize("name", MIXTURES)
def test_stacks_give_the_same_bits_and_moved_experts_are_found(name, tmp_path):
    model = make_zoo_model(name)
    each = open_checkpoint(save(model, tmp_path / "each"))
    stacked = open_checkpoint(save(model, tmp_path / "stacked", save_original_format=False))
    tokens = draw_tokens(model, sum(CHUNKS), 1)
    expected, ends = run(each, tokens)
    reference = oracle(model, tokens)[ends]
    assert per_position(expected, reference) <= TOLERANCE
    assert run(stacked, tokens)[0].tobytes() == expected.tobytes()
    assert per_position(run(each, tokens, swapped(each.weights, 0, 0, 2))[0], reference) > TOLERANCE
    assert per_position(run(each, tokens, perturbed(each.weights, "layers.0.experts.1.down"))[0], reference) > TOLERANCE


def round_expert_inputs(model):
    """transformers' experts see what coded weights see: inputs rounded to eight bits, 32 at a time."""

    def rounded(values):
        return torch.from_numpy(round_int8(values.numpy()))

    for layer in model.model.layers:
        experts = layer.mlp.experts
        experts.register_forward_pre_hook(lambda module, inputs: (rounded(inputs[0]), *inputs[1:]))
        experts._apply_gate = lambda both, plain=experts._apply_gate: rounded(plain(both))


def test_mxfp4_experts_run_on_rounded_activations(tmp_path):
    model = make_zoo_model("gpt_oss")
    checkpoint = open_checkpoint(save_mxfp4(model, tmp_path))
    tokens = draw_tokens(model, sum(CHUNKS), 1)
    logits, ends = run(checkpoint, tokens)
    exact = oracle(model, tokens)[ends]
    round_expert_inputs(model)
    reference = oracle(model, tokens)[ends]
    assert per_position(logits, reference) <= CODED
    assert per_position(logits, exact) > CODED  # control: activations of full precision
    assert per_position(run(checkpoint, tokens, swapped(checkpoint.weights, 0, 0, 2))[0], reference) > CODED


def test_a_second_start_joins_no_blocks(tmp_path):
    model = make_zoo_model("gpt_oss")
    checkpoint = open_checkpoint(save_mxfp4(model, tmp_path / "model"))
    tokens = draw_tokens(model, sum(CHUNKS), 1)
    joined = []
    weights = replace(
        checkpoint.weights,
        tensors={place: watched(ref, joined) for place, ref in checkpoint.weights.tensors.items()},
    )
    first = run(checkpoint, tokens, weights, pack_cache=str(tmp_path / "cache"))[0]
    assert sum(name.endswith("_blocks[0][0::2]") for name in joined) == 4  # each once, and only when packed
    joined.clear()
    await_pack_cache()
    second = run(checkpoint, tokens, weights, pack_cache=str(tmp_path / "cache"))[0]
    assert first.tobytes() == second.tobytes()
    assert not any("_blocks" in name for name in joined)


def watched(ref, seen):
    """The reference, which notes when its tensor is made."""
    if ref.load is None:
        return ref

    def load():
        seen.append(ref.tensor.name)
        return ref.load()

    return replace(ref, load=load)
