"""Families from configs: what is left out is transformers' default, what is not known is refused, in one line."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tests.model.published_configs import FULL, PUBLISHED, WINDOWED
from tests.model.zoo import DENSE, ENTRIES, ZOO, make_config, make_zoo_model, save

from penstock.core import ModelFileError
from penstock.model import DecoderSpec, RopeKind, open_checkpoint
from penstock.model.dense import NEUTRAL
from penstock.model.families import FAMILIES, family_of, read_spec
from penstock.model.fields import Fields

TYPES = sorted({model_type for model_type, _ in ENTRIES.values()})
# What no family has a default for.
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 12, "num_attention_heads": 32}
SIZES |= {"vocab_size": 300}
EXPERTS = {name: {"num_experts": 8} for name in ("qwen2_moe", "qwen3_moe", "olmoe")}
EXPERTS |= {name: {"num_local_experts": 8} for name in ("mixtral", "gpt_oss")}


def read(values: Mapping[str, object]) -> DecoderSpec:
    fields = Fields(values, "config.json")
    return read_spec(fields, family_of(fields))


def dumped(config: hf.PretrainedConfig) -> dict[str, object]:
    return json.loads(config.to_json_string(use_diff=False))


@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_left_out_is_transformers_default(model_type: str) -> None:
    needed = SIZES | ({"head_dim": 64} if model_type == "ministral" else {}) | EXPERTS.get(model_type, {})
    whole = dumped(hf.AutoConfig.for_model(model_type, **needed))
    spec = read(whole)
    assert read({"model_type": model_type, **needed}) == spec
    whole["max_position_embeddings"] = spec.max_tokens + 1
    assert read(whole) != spec  # control


@pytest.mark.parametrize("name", DENSE)
def test_older_spellings_are_the_same_model(name: str) -> None:
    newer = dumped(make_config(name))
    older = {key: value for key, value in newer.items() if key != "rope_parameters"}
    rope = newer["rope_parameters"]
    if name == "gemma3_text":
        older["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        older |= {"layer_types": None, "sliding_window_pattern": 6}
        rope = rope["full_attention"]
    older["rope_theta"] = rope["rope_theta"]
    older["partial_rotary_factor"] = rope.get("partial_rotary_factor")
    kind = {"longrope": "su"}.get(rope["rope_type"], rope["rope_type"])
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    older["rope_scaling"] = None if kind == "default" else {**scaling, "rope_type": None, "type": kind}
    assert read(older) == read(newer)


@pytest.mark.parametrize("model_type", TYPES)
def test_fields_of_other_models_are_refused_by_name(model_type: str) -> None:
    (family,) = [family for family in FAMILIES if family.model_type == model_type]
    values = dumped(hf.AutoConfig.for_model(model_type, **SIZES, head_dim=64))
    for name in sorted(set(NEUTRAL) - family.reads):
        with pytest.raises(ModelFileError, match=rf"^config\.json: {name} is .*not supported for {model_type}\.$"):
            read({**values, name: {"a": 1}})


LAYERS = {"num_hidden_layers": 4}
REFUSED = {
    "two kinds of layers": ("mistral", {"layer_types": [FULL, WINDOWED] * 2, **LAYERS}, "layers of two kinds"),
    "a window left out": ("mistral", {"layer_types": [FULL] * 4, **LAYERS}, "layers of two kinds"),
    "an unknown layer": ("ministral", {"layer_types": [FULL, "chunked_attention"] * 2, **LAYERS}, "chunked_attention"),
    "too few layers": ("gemma2", {"layer_types": [FULL], **LAYERS}, "list of 4"),
    "windows off": ("qwen2", {"layer_types": [WINDOWED] * 4, **LAYERS}, "sliding_window is off"),
    "an exact GELU": ("gemma", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
    "another gate": ("gemma", {"hidden_act": "silu"}, "hidden_act is 'silu'"),
    "an unknown gate": ("gemma2", {"hidden_activation": "relu2"}, "hidden_activation 'relu2'"),
    "both directions": ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    "capped scores": ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    "a cap of zero": ("gemma2", {"final_logit_softcapping": 0}, "final_logit_softcapping is 0"),
    "no text": ("gemma3", {}, "text_config is None"),
    "text that is no object": ("gemma3", {"text_config": [1]}, r"text_config is \[1\]"),
    "quantized text": ("gemma3", {"text_config": {"quantization_config": {"quant_method": "awq"}}}, "'awq'"),
    "another scaling": ("phi3", {"rope_scaling": {"type": "linear", "factor": 2}}, "rope type linear"),
    "an odd rotation": ("phi3", {"partial_rotary_factor": 0.3, "head_dim": 10}, "3 of a head's 10"),
    "partial llama": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    "a multiplier of zero": ("granite", {"residual_multiplier": 0}, "residual_multiplier is 0"),
    "a short list": ("smollm3", {"no_rope_layers": [1, 0], **LAYERS}, "list of 4 zeros and ones"),
    "a list of words": ("smollm3", {"no_rope_layers": ["0"] * 4, **LAYERS}, "list of 4 zeros and ones"),
    "another class": ("olmo2", {"architectures": ["Olmo3ForCausalLM"]}, "unknown architecture 'Olmo3ForCausalLM'"),
    "another type": ("cohere2", {}, "unknown architecture 'cohere2'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_are_not_had_exactly_are_refused(case: str) -> None:
    model_type, changes, message = REFUSED[case]
    with pytest.raises(ModelFileError, match=message) as error:
        read({**SIZES, "model_type": model_type, **changes})
    assert "\n" not in str(error.value) and str(error.value).startswith("config.json")


def test_layers_of_one_kind_are_mistrals() -> None:
    values = {**SIZES, **LAYERS, "model_type": "mistral"}
    assert read({**values, "layer_types": [WINDOWED] * 4}) == read(values)
    assert read({**values, "layer_types": [FULL] * 4, "sliding_window": None}) == read(
        {**values, "sliding_window": None}
    )


def test_equal_layers_are_one_object() -> None:
    layers = read(PUBLISHED["gemma-3-4b-it"][0]).layers
    assert len({id(layer) for layer in layers}) == 2
    assert {layer.attention.rope.kind for layer in layers if layer.attention.rope} == {
        RopeKind.DEFAULT,
        RopeKind.LINEAR,
    }


def test_the_text_part_of_a_multimodal_checkpoint(tmp_path: Path) -> None:
    model = make_zoo_model("gemma3")
    save(model, tmp_path)
    (tmp_path / "generation_config.json").unlink()
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.eos_token_ids == (2,) and checkpoint.bos_token_id == 1  # the text part's own
    text = {name for name in model.state_dict() if ".language_model." in name}
    assert len(checkpoint.weights.tensors) == len(text) and checkpoint.spec.tied_head
    assert {name.split(".")[0] for name in checkpoint.weights.skipped} == {"vision_tower", "multi_modal_projector"}

    tensors = load_file(tmp_path / "model.safetensors")
    norm = "language_model.model.norm.weight"
    for name, message in (("model.norm.weight", "two tensors have one place"), ("audio.weight", "has no place")):
        save_file({**tensors, name: tensors[norm]}, tmp_path / "model.safetensors")
        with pytest.raises(ModelFileError, match=message):
            open_checkpoint(tmp_path)
    newer = {name.replace("language_model.model.", "model.language_model."): value for name, value in tensors.items()}
    save_file(newer, tmp_path / "model.safetensors")
    again = open_checkpoint(tmp_path).weights.tensors
    assert again.keys() == checkpoint.weights.tensors.keys()
    assert np.array_equal(again["final_norm"].tensor.data, checkpoint.weights.tensors["final_norm"].tensor.data)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 10**400])
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from([FULL, WINDOWED, "yarn", "longrope", "dynamic", "gelu"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
WHOLE = [dumped(make_config(name)) for name in ZOO] + [values for values, _ in PUBLISHED.values()]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_hostile_configs_are_read_or_refused_in_one_line(data: st.DataObject) -> None:
    values = json.loads(json.dumps(data.draw(st.sampled_from(WHOLE))))
    for _ in range(data.draw(st.integers(1, 3))):
        holder = values
        while True:
            name = data.draw(st.sampled_from(sorted(holder)))
            if not isinstance(holder[name], dict) or not holder[name] or data.draw(st.booleans()):
                break
            holder = holder[name]
        holder[name] = data.draw(json_values)
    try:
        spec = read(values)
    except ModelFileError as error:
        assert "\n" not in str(error) and str(error).startswith("config.json") and len(str(error)) < 600
    else:
        assert spec.layers and spec.vocab > 0
