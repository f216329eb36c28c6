"""Mixture fields: counts, sparse layers, windows; what routes otherwise is refused by name."""

from typing import Any

import pytest
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st
from tests.model.zoo import MIXTURES, make_config, make_zoo_model

from penstock.core import ModelFileError, limits
from penstock.model import Activation, DecoderSpec, QkNorm
from penstock.model.families import family_of, read_spec
from penstock.model.fields import Fields


def config_of(name: str, **changes: Any) -> dict[str, Any]:
    return make_config(name).to_dict() | changes


def spec_of(values: dict[str, Any]) -> DecoderSpec:
    fields = Fields(values, "config.json")
    return read_spec(fields, family_of(fields))


@pytest.mark.parametrize("name", MIXTURES)
def test_either_spelling_of_the_count_and_no_third(name: str) -> None:
    values = config_of(name)
    spellings = [key for key in ("num_experts", "num_local_experts") if values.get(key) is not None]
    count = values[spellings[0]]
    for key in spellings:
        values.pop(key)
    assert spec_of(values | {"num_experts": count}) == spec_of(values | {"num_local_experts": count})
    with pytest.raises(ModelFileError, match="num_experts is missing"):
        spec_of(values)
    with pytest.raises(ModelFileError, match=f"num_experts {count} and num_local_experts {count + 1} contradict"):
        spec_of(values | {"num_experts": count, "num_local_experts": count + 1})
    with pytest.raises(ModelFileError, match=rf"num_experts_per_tok is {count + 1}; it must lie in \[1, {count}\]"):
        spec_of(values | {"num_experts": count, "num_experts_per_tok": count + 1})
    with pytest.raises(ModelFileError, match=f"it must lie in .1, {limits.MAX_EXPERTS}"):
        spec_of(values | {"num_experts": limits.MAX_EXPERTS + 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_group", 8),
        ("topk_group", 4),
        ("routed_scaling_factor", 2.5),
        ("scoring_func", "sigmoid"),
        ("topk_method", "noaux_tc"),
        ("n_shared_experts", 1),
        ("first_k_dense_replace", 3),
    ],
)
def test_other_routing_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ModelFileError, match=f"{field} is {value!r}, a routing that is not supported"):
        spec_of(config_of("qwen3_moe", **{field: value}))


def test_routing_for_training_changes_nothing() -> None:
    plain = spec_of(config_of("mixtral"))
    noisy = {"router_jitter_noise": 0.5, "output_router_logits": True, "router_aux_loss_coef": 9.0}
    assert spec_of(config_of("mixtral", **noisy, n_group=1, scoring_func="softmax")) == plain
    assert all(layer.mlp.norm_topk for layer in plain.layers)
    assert not any(layer.mlp.norm_topk for layer in spec_of(config_of("qwen2_moe")).layers)


@pytest.mark.parametrize("name", ["qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize(("step", "dense"), [(1, []), (2, []), (1, [0, 3]), (2, [1]), (3, [2])])
def test_sparse_layers_are_those_of_transformers(name: str, step: int, dense: list[int]) -> None:
    changes = {"decoder_sparse_step": step, "mlp_only_layers": dense, "num_hidden_layers": 4, "layer_types": None}
    model = make_zoo_model(name, **{key: value for key, value in changes.items() if key != "layer_types"})
    spec = spec_of(config_of(name, **changes))
    assert [layer.mlp.num_experts > 0 for layer in spec.layers] == [
        hasattr(layer.mlp, "experts") for layer in model.model.layers
    ]
    plain = [layer.mlp for layer in spec.layers if not layer.mlp.num_experts]
    assert all((mlp.intermediate, mlp.shared_intermediate) == (96, 0) for mlp in plain)


def test_windows_of_qwen2_moe_are_those_of_transformers() -> None:
    changes = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 3, "num_hidden_layers": 6}
    expected = hf.Qwen2MoeConfig(**changes).layer_types
    values = config_of("qwen2_moe", **changes) | {"layer_types": None}
    found = [layer.attention.window for layer in spec_of(values).layers]
    assert found == [9 if kind == "sliding_attention" else None for kind in expected] == [9, None, 9, None, None, None]
    assert spec_of(values | {"layer_types": ["full_attention"] * 6}).layers[0].attention.window is None


def test_gpt_oss_fields() -> None:
    values = config_of("gpt_oss")
    spec = spec_of(values)
    attention, mlp = spec.layers[0].attention, spec.layers[0].mlp
    assert (attention.sinks, attention.q_bias, attention.o_bias, attention.window) == (True, True, True, 12)
    assert spec.layers[1].attention.window is None
    assert (mlp.activation, mlp.bias, mlp.router_bias, mlp.clamp) == (Activation.SWIGLU_OAI, True, True, 7.0)
    with pytest.raises(ModelFileError, match=r"swiglu_alpha is 2; only 1\.702"):
        spec_of(values | {"swiglu_alpha": 2.0})
    assert spec_of(values | {"experts_per_token": 2}) == spec
    with pytest.raises(ModelFileError, match="experts_per_token is 3; num_experts_per_tok is another"):
        spec_of(values | {"experts_per_token": 3})


@pytest.mark.parametrize("name", MIXTURES)
def test_what_a_config_leaves_out_is_as_in_transformers(name: str) -> None:
    bare = hf.AutoConfig.for_model(name).to_dict()
    needed = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
    short = {key: bare[key] for key in ("model_type", *needed, "num_experts", "num_local_experts") if key in bare}
    assert spec_of(short) == spec_of(bare)


def test_olmoe_clips_and_norms_whole_rows() -> None:
    spec = spec_of(config_of("olmoe"))
    assert (spec.layers[0].attention.qkv_clip, spec.layers[0].attention.qk_norm) == (2.0, QkNorm.ALL)
    assert spec_of(config_of("olmoe", clip_qkv=None)).layers[0].attention.qkv_clip == 0
    for field, value in (("clip_qkv", 0.0), ("sliding_window", 8), ("layer_types", ["full_attention"] * 2)):
        with pytest.raises(ModelFileError, match=field):
            spec_of(config_of("olmoe", **{field: value}))


def test_quantizations_of_other_kinds_are_refused() -> None:
    for name in MIXTURES:
        with pytest.raises(ModelFileError, match="fp8"):
            spec_of(config_of(name, quantization_config={"quant_method": "fp8"}))
    mxfp4 = {"quantization_config": {"quant_method": "mxfp4"}}
    assert spec_of(config_of("gpt_oss", **mxfp4)) == spec_of(config_of("gpt_oss"))
    with pytest.raises(ModelFileError, match="mxfp4"):
        spec_of(config_of("mixtral", **mxfp4))


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2000),
    st.integers(10**30, 10**31),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.one_of(st.integers(-2, 5), st.text(max_size=2)), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
FIELDS = [
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
    "layer_types",
    "sliding_window",
    "use_sliding_window",
    "clip_qkv",
    "max_window_layers",
    "swiglu_limit",
    "swiglu_alpha",
    "attention_bias",
    "qkv_bias",
    "quantization_config",
    "rope_parameters",
    "n_group",
]
CONFIGS = {name: config_of(name) for name in MIXTURES}


@given(st.sampled_from(MIXTURES), st.dictionaries(st.sampled_from(FIELDS), JUNK, min_size=1, max_size=4))
def test_any_value_gives_a_spec_or_one_line(name: str, junk: dict[str, Any]) -> None:
    try:
        spec = spec_of(CONFIGS[name] | junk)
    except ModelFileError as error:
        assert str(error).startswith("config.json: ") and "\n" not in str(error)
        return
    for layer in spec.layers:
        assert 0 <= layer.mlp.experts_per_token <= layer.mlp.num_experts <= limits.MAX_EXPERTS
