"""Facts: published shapes from bare configs, the same from files, and what is said of models that are not served."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import transformers as hf
from tests.model.made_models import make_model, save
from tests.model.published_configs import PUBLISHED
from tests.model.zoo import make_zoo_model

from penstock.core import ModelFileError, SamplingParams
from penstock.model import DecoderSpec, ModelFacts, inspect_checkpoint, rope_frequencies

DATA = Path(__file__).parents[3] / "shared" / "data" / "model_configs"
# (values, KV bytes a token in bf16).
COUNTS = {
    "meta-llama--Meta-Llama-3.1-8B": (8_030_261_248, 131_072),
    "meta-llama--Meta-Llama-3.1-70B": (70_553_706_496, 327_680),
    "meta-llama--Meta-Llama-3.1-405B": (405_853_388_800, 516_096),
    "qwen2.5-7b-instruct": (7_615_616_512, 57_344),
    "mistral-nemo-instruct-2407": (12_247_782_400, 163_840),
    "Qwen--Qwen3-0.6B": (596_049_920, 114_688),
    "Qwen--Qwen3-32B": (32_762_123_264, 262_144),
    "yi-34b": (34_388_917_248, 245_760),
    "llama-2-7b-hf": (6_738_415_616, 524_288),
    "codellama-34b-instruct-hf": (33_743_970_304, 196_608),
}
# What the one line names.
REFUSED = {
    "deepseek-ai--DeepSeek-V3": "unknown architecture 'deepseek_v3'",
    "google--gemma-4-26B-A4B": "unknown architecture 'gemma4'",
    "llm_analysis--EleutherAI_gpt-j-6b": "unknown architecture 'gptj'",
    "llm_analysis--NousResearch_Llama-2-7b-hf": "num_hidden_layers is missing",
    "llm_analysis--facebook_opt-13b": "unknown architecture 'opt'",
    "meta-llama--Llama-4-Scout-17B-16E-Instruct": "unknown architecture 'llama4'",
    "stepfun-ai--Step-3.7-Flash": "unknown architecture 'step3p7'",
    "Qwen--Qwen3-32B-FP8": "quantization_config is 'fp8', which is not supported for qwen3",
    "Qwen--Qwen3-32B-FP8-Static-PerTensor": "quantization_config is ",
}


def data_config(name: str) -> Path:
    path = DATA / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def text_config(path: Path) -> hf.PretrainedConfig:
    values = json.loads(path.read_text())
    values.pop("quantization_config", None)
    return hf.AutoConfig.for_model(**values).get_text_config()


def numel(config: hf.PretrainedConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in hf.AutoModelForCausalLM.from_config(config).parameters())


def rotary(config: hf.PretrainedConfig) -> Iterator[tuple[str, torch.Tensor, float]]:
    """(layer type or "", frequencies, attention factor) as transformers makes them before any text is seen."""
    with torch.device("meta"):
        kind = type(hf.AutoModelForCausalLM.from_config(config).model.rotary_emb)
    made = kind(config)
    for name, buffer in made.named_buffers():
        layer_type = name.removesuffix("inv_freq").removesuffix("_")
        if "original" not in name:
            scaling = f"{layer_type}_attention_scaling" if layer_type else "attention_scaling"
            yield layer_type, buffer.double(), getattr(made, scaling)


def check_angles(spec: DecoderSpec, config: hf.PretrainedConfig) -> None:
    """Every layer that rotates has the frequencies that transformers gives a layer of its type."""
    expected = {layer_type: (freq, factor) for layer_type, freq, factor in rotary(config)}
    kinds = getattr(config, "layer_types", None) or [""] * len(spec.layers)
    rotating = 0
    for layer, kind in zip(spec.layers, kinds, strict=True):
        if layer.attention.rope is not None:
            rotating += 1
            got, factor = rope_frequencies(layer.attention.rope, 64)
            frequencies, expected_factor = expected[kind if kind in expected else ""]
            assert got == pytest.approx(frequencies.numpy(), rel=2e-6, abs=0)
            assert factor == pytest.approx(expected_factor, rel=1e-9)
    assert rotating


def check_windows(spec: DecoderSpec, config: hf.PretrainedConfig) -> None:
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    for index, layer in enumerate(spec.layers):
        windowed = window if kinds is None or kinds[index] == "sliding_attention" else None
        assert layer.attention.window == (windowed or None)


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_shapes_of_the_data_resolve(name: str) -> None:
    path = data_config(name)
    facts = inspect_checkpoint(path)
    assert (facts.num_parameters, dict(facts.kv_bytes_per_token)["bf16"]) == COUNTS[name]
    assert f"{COUNTS[name][0]:,}" in facts.report()
    config = text_config(path)
    assert numel(config) == facts.num_parameters
    check_angles(facts.spec, config)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_shapes_resolve(name: str, tmp_path: Path) -> None:
    values, count = PUBLISHED[name]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    facts, config = inspect_checkpoint(tmp_path), text_config(path)
    assert facts.num_parameters == numel(config) == count
    assert facts.name == tmp_path.name and facts.total_bytes == 0
    check_angles(facts.spec, config)
    check_windows(facts.spec, config)
    # the file as transformers writes it again, in the newer spelling, is the same model
    config.architectures = None
    config.save_pretrained(tmp_path / "again")
    again = inspect_checkpoint(tmp_path / "again").spec
    assert (again.layers, again.norm_eps, again.tied_head) == (
        facts.spec.layers,
        facts.spec.norm_eps,
        facts.spec.tied_head,
    )


def test_control_another_base_is_found(tmp_path: Path) -> None:
    values, _ = PUBLISHED["gemma-3-1b-it"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**values, "rope_local_base_freq": 10_001}))
    spec = inspect_checkpoint(path).spec
    path.write_text(json.dumps(values))
    with pytest.raises(AssertionError):
        check_angles(spec, text_config(path))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_served_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ModelFileError) as error:
        inspect_checkpoint(data_config(name))
    assert REFUSED[name] in error.value.message
    assert "\n" not in str(error.value) and f"{name}.json" in error.value.message


def test_every_config_of_the_data_resolves_or_is_refused() -> None:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not there")
    served = 0
    for path in sorted(DATA.glob("*.json")):
        try:
            facts = inspect_checkpoint(path)
        except ModelFileError as error:
            assert "\n" not in str(error) and str(path) in str(error)
        else:
            served += 1
            if path.stem not in COUNTS:
                assert facts.num_parameters == numel(text_config(path)), path
    assert served >= 20


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_folder_and_bare_config_agree_with_transformers(family: str, tmp_path: Path) -> None:
    model = make_model(family)
    facts = inspect_checkpoint(save(model, tmp_path))
    bare = inspect_checkpoint(tmp_path / "config.json")
    assert facts.num_parameters == bare.num_parameters == sum(p.numel() for p in model.parameters())
    assert facts.total_bytes == 4 * facts.num_parameters and bare.total_bytes == 0
    assert facts.bytes_by_storage == (("F32", facts.total_bytes),) and facts.quantization is None
    assert json.loads(json.dumps(asdict(facts), default=str))["num_parameters"] == facts.num_parameters


def line(facts: ModelFacts, name: str) -> str:
    (found,) = [row for row in facts.report().splitlines() if row.startswith(f"{name} ")]
    return found.removeprefix(name).strip()


def test_the_report_says_which_layers_rotate_and_see_how(tmp_path: Path) -> None:
    for name, rope, window in (
        (
            "gemma-3-1b-it",
            "default, theta 10000, 256 dimensions in 22 of 26 layers; "
            "default, theta 1e+06, 256 dimensions in 4 of 26 layers",
            "512 tokens in 22 of 26 layers",
        ),
        ("smollm3-3b", "default, theta 5e+06, 128 dimensions in 27 of 36 layers; none in 9 of 36 layers", None),
        ("phi-3-mini-4k", "default, theta 10000, 96 dimensions", "2,047 tokens"),
    ):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(PUBLISHED[name][0]))
        facts = inspect_checkpoint(path)
        assert line(facts, "rope") == rope
        assert window is None or line(facts, "window") == window


def test_sampling_is_the_folders_with_and_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["llama-3.2-1b"][0]))
    assert inspect_checkpoint(tmp_path).generation_defaults == SamplingParams()
    assert line(inspect_checkpoint(tmp_path), "sampling") == "nothing recommended"
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6, "top_p": 0.9}')
    facts = inspect_checkpoint(tmp_path)
    assert (facts.generation_defaults.temperature, facts.generation_defaults.top_p) == (0.6, 0.9)
    assert line(facts, "sampling") == "temperature 0.6, top_p 0.9"
    assert inspect_checkpoint(tmp_path / "config.json").generation_defaults == SamplingParams()


def test_parts_that_are_not_served_are_named(tmp_path: Path) -> None:
    model = make_zoo_model("gemma3")
    facts = inspect_checkpoint(save(model, tmp_path))
    text = sum(p.numel() for name, p in model.named_parameters() if ".language_model." in name)
    assert facts.num_parameters == text and facts.total_bytes == 4 * text
    assert [part for part, _ in facts.skipped] == ["multi_modal_projector", "vision_tower"]
    assert "multi_modal_projector (2 tensors)" in facts.report()
