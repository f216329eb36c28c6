"""Places of every family: their values add up to what transformers holds, in tiny models and in full-size shapes."""

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
import transformers as hf
from tests.model.zoo import ZOO, make_config

from penstock.model import inspect_checkpoint
from penstock.model.families import family_of, read_spec
from penstock.model.fields import Fields
from penstock.model.places import all_layer_places, count_active_parameters, count_parameters, layer_places, places
from penstock.model.spec import Attention, DecoderSpec, Layer, Mlp, QkNorm

CONFIGS = Path(__file__).parents[3] / "shared" / "data" / "model_configs"
ATTENTION = Attention(4, 2, 16, 0.25, None)
# (values, values a token meets, KV bytes a token in bf16).
FULL_SIZE = {
    "mistralai--Mixtral-8x7B-v0.1": (46_702_792_704, 12_879_925_248, 131_072),
    "mistralai--Mixtral-8x22B-v0.1": (140_620_634_112, 39_152_031_744, 229_376),
    "Qwen--Qwen3-30B-A3B": (30_532_122_624, 3_353_032_704, 98_304),
    "Qwen--Qwen3-235B-A22B": (235_093_634_560, 22_190_763_520, 192_512),
    "openai--gpt-oss-20b": (20_914_757_184, 4_187_440_704, 49_152),
}


def spec_of(config: hf.PretrainedConfig) -> DecoderSpec:
    fields = Fields(json.loads(config.to_json_string(use_diff=False)), "config.json")
    return read_spec(fields, family_of(fields))


def counts(config: hf.PretrainedConfig) -> tuple[int, int]:
    """transformers' values, all and those that a token meets."""
    with torch.device("meta"):
        model = hf.AutoModelForCausalLM.from_config(config)
    total = idle = 0
    for name, value in model.named_parameters():
        total += value.numel()
        if ".experts." in name:
            idle += value.numel() // value.shape[0] * (value.shape[0] - config.num_experts_per_tok)
    return total, total - idle


@pytest.mark.parametrize("name", [name for name in ZOO if name != "gemma3"])
def test_counts_are_those_of_transformers(name: str) -> None:
    config = make_config(name)
    spec = spec_of(config)
    assert (count_parameters(spec), count_active_parameters(spec)) == counts(config)
    assert count_parameters(spec) == sum(map(prod, places(spec).values()))
    wider = replace(spec, layers=(*spec.layers[1:], replace(spec.layers[0], post_norms=not spec.layers[0].post_norms)))
    assert count_parameters(wider) != count_parameters(spec)  # control


@pytest.mark.parametrize("name", sorted(FULL_SIZE))
def test_full_size_shapes(name: str) -> None:
    path = CONFIGS / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    facts = inspect_checkpoint(path)
    found = facts.num_parameters, facts.num_active_parameters, dict(facts.kv_bytes_per_token)["bf16"]
    assert found == FULL_SIZE[name]
    values = json.loads(path.read_text())
    values.pop("quantization_config", None)
    assert found[:2] == counts(hf.AutoConfig.for_model(**values))
    assert f"{found[0]:,} ({found[1]:,} a token: {facts.spec.layers[0].mlp.experts_per_token} of" in facts.report()


def test_places_of_a_mixture() -> None:
    shared = {"shared_intermediate": 24, "shared_gate": True}
    mlp = Mlp(8, bias=True, num_experts=3, experts_per_token=2, router_bias=True, **shared)
    found = layer_places(Layer(replace(ATTENTION, qk_norm=QkNorm.ALL, sinks=True), mlp), hidden=32)
    assert found["router"] == (3, 32) and found["router.bias"] == (3,)
    assert found["experts.2.gate"] == (8, 32) and found["experts.2.down"] == (32, 8)
    assert found["experts.0.up.bias"] == (8,) and found["experts.0.down.bias"] == (32,)
    assert found["shared.down"] == (32, 24) and "shared.down.bias" not in found
    assert found["shared.router"] == (1, 32)
    assert (found["q_norm"], found["k_norm"], found["sinks"]) == ((64,), (32,), (4,))
    assert not {"gate", "up", "down", "experts.3.gate"} & set(found)
    assert "shared.router" not in layer_places(Layer(ATTENTION, replace(mlp, shared_gate=False)), hidden=32)


def test_equal_layers_share_one_table() -> None:
    layer = Layer(ATTENTION, Mlp(8, num_experts=128, experts_per_token=8))
    windowed = replace(layer, attention=replace(ATTENTION, window=9))
    spec = DecoderSpec("x", 32, 100, (layer, windowed) * 20, 1e-6, 100)
    tables = all_layer_places(spec)
    assert len({id(table) for table in tables}) == 2 and tables[0] is tables[38]
