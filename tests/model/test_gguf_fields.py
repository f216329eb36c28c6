"""Metadata → config fields: what each architecture declares, implies and is refused for."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core import ModelFileError, limits
from penstock.formats import RawTensor, Storage
from penstock.model.families import family_of, read_spec
from penstock.model.fields import Fields
from penstock.model.gguf_fields import read_architecture, read_config
from penstock.model.gguf_names import LAYOUTS

EMBED = RawTensor("token_embd.weight", Storage.F32, (100, 64), np.zeros(0, np.uint8))
PLAIN = {
    "block_count": 4,
    "context_length": 4096,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6,
}
SLIDING, FULL = "sliding_attention", "full_attention"


def config(architecture, tensors=(), general=None, **keys):
    """The config of a file with the plain keys, those given (`__` for a dot; None takes one away) and these tensors."""
    values = PLAIN | {key.replace("__", "."): value for key, value in keys.items()}
    own = {f"{architecture}.{key}": value for key, value in values.items() if value is not None}
    source = Fields({"general.architecture": architecture} | own | (general or {}), "m.gguf")
    stored = {name: RawTensor(name, Storage.F32, (4,), np.zeros(0, np.uint8)) for name in tensors}
    return read_config(source, read_architecture(source), {"token_embd.weight": EMBED} | stored)


def refusal(architecture, tensors=(), general=None, **keys):
    with pytest.raises(ModelFileError) as caught:
        config(architecture, tensors, general, **keys)
    message = str(caught.value)
    assert message.startswith("m.gguf: ") and "\n" not in message
    return message


def test_architectures_are_gguf_pys_and_have_a_layout():
    known = refusal("mamba").split("known: ")[1].rstrip(".").split(", ")
    assert sorted(known) == sorted(LAYOUTS)
    assert set(known) <= set(gguf.MODEL_ARCH_NAMES.values())


def test_what_all_architectures_share():
    found = config("qwen2", tensors=["output.weight"], attention__key_length=32, attention__value_length=32)
    assert (found["hidden_size"], found["num_hidden_layers"], found["vocab_size"]) == (64, 4, 100)
    assert (found["head_dim"], found["num_key_value_heads"], found["tie_word_embeddings"]) == (32, 2, False)
    assert found["rope_parameters"] == {"rope_theta": 10000.0, "rope_type": "default"}
    found = config("qwen2")
    assert (found["head_dim"], found["tie_word_embeddings"], found["attention_bias"]) == (16, True, False)
    assert config("qwen2", attention__head_count_kv=None)["num_key_value_heads"] == 4
    assert "value_length is not 16" in refusal("qwen2", attention__value_length=32)
    assert "no multiple of 3 heads" in refusal("qwen2", attention__head_count=3)
    assert "100 embedding rows" in refusal("qwen2", general={"tokenizer.ggml.tokens": ["t"] * 101})


@pytest.mark.parametrize("key", sorted(PLAIN))
def test_every_shared_key_is_checked(key):
    if key != "attention.head_count_kv":
        assert key in refusal("llama", **{key.replace(".", "__"): None})
    for bad in (0, -1, "x", True, 2**70, float("nan"), [1, 2]):
        if key != "attention.layer_norm_rms_epsilon" or bad not in (2**70,):
            assert key in refusal("llama", **{key.replace(".", "__"): bad})


def test_lists_of_one_value_a_layer_read_as_the_value():
    assert config("llama", attention__head_count_kv=[2, 2, 2, 2])["num_key_value_heads"] == 2
    assert "head_count_kv" in refusal("llama", attention__head_count_kv=[2, 2, 1, 2])
    assert "feed_forward_length" in refusal("llama", feed_forward_length=[96, 96, 64, 96])


def test_llama_is_also_mistral_and_mixtral():
    assert config("llama")["model_type"] == "llama"
    found = config("llama", tensors=["blk.0.attn_q.bias", "blk.0.ffn_gate.bias"])
    assert found["attention_bias"] is found["mlp_bias"] is True
    assert config("llama", attention__sliding_window=64)["sliding_window"] == 64
    assert config("llama", attention__sliding_window=64)["model_type"] == "mistral"
    found = config("llama", expert_count=8, expert_used_count=2)
    assert (found["model_type"], found["num_local_experts"], found["num_experts_per_tok"]) == ("mixtral", 8, 2)
    assert found["sliding_window"] is None and found["intermediate_size"] == 96
    assert config("llama", expert_count=0, expert_used_count=0)["model_type"] == "llama"
    found = config("mistral3", vocab_size=100)
    assert (found["model_type"], found["sliding_window"]) == ("mistral", None)


def test_experts_of_the_qwens():
    found = config("qwen2moe", expert_count=6, expert_used_count=3)
    assert (found["moe_intermediate_size"], found["shared_expert_intermediate_size"]) == (32, 96)
    assert found["norm_topk_prob"] is False and found["num_experts"] == 6
    found = config(
        "qwen2moe",
        expert_count=6,
        expert_used_count=3,
        expert_feed_forward_length=40,
        expert_shared_feed_forward_length=80,
    )
    assert (found["moe_intermediate_size"], found["shared_expert_intermediate_size"]) == (40, 80)
    found = config("qwen3moe", expert_count=6, expert_used_count=3, expert_feed_forward_length=32)
    assert found["norm_topk_prob"] is True and "shared_expert_intermediate_size" not in found
    assert "expert_weights_norm" in refusal("qwen3moe", expert_count=6, expert_used_count=3, expert_weights_norm=False)
    assert "expert_gating_func" in refusal("qwen3moe", expert_count=6, expert_used_count=3, expert_gating_func=2)
    assert "expert_weights_scale" in refusal("qwen3moe", expert_count=6, expert_used_count=3, expert_weights_scale=2.5)
    assert "expert_group_count" in refusal("qwen3moe", expert_count=6, expert_used_count=3, expert_group_count=2)


def test_olmoe_clips_and_does_not_renormalise():
    found = config("olmoe", expert_count=8, expert_used_count=2, attention__clamp_kqv=2.0)
    assert (found["clip_qkv"], found["norm_topk_prob"]) == (2.0, False)
    assert config("olmoe", expert_count=8, expert_used_count=2)["clip_qkv"] is None
    assert "clamp_kqv" in refusal("llama", attention__clamp_kqv=2.0)


def test_windows_by_layer():
    assert config("gemma2")["layer_types"] == [SLIDING, FULL, SLIDING, FULL]
    assert config("gemma2")["sliding_window"] == 4096
    assert config("gemma2", attention__sliding_window_pattern=3)["layer_types"] == [SLIDING, SLIDING, FULL, SLIDING]
    listed = config("gemma2", attention__sliding_window_pattern=[False, True, True, False])
    assert listed["layer_types"] == [FULL, SLIDING, SLIDING, FULL]
    assert config("gemma2", attention__sliding_window_pattern=[True] * 4)["layer_types"] == [SLIDING] * 4
    assert "must have 4 entries" in refusal("gemma2", attention__sliding_window_pattern=[True])
    assert "must have 4 entries" in refusal("gemma2", attention__sliding_window_pattern=["a"] * 4)
    keys = {"rope__freq_base": 1e6, "block_count": 7}
    found = config("gemma3", attention__sliding_window=512, **keys)
    assert found["layer_types"] == [SLIDING] * 5 + [FULL, SLIDING] and found["sliding_window"] == 512
    assert config("gemma3", **keys)["layer_types"] == [FULL] * 7
    found = config("qwen3", attention__sliding_window=64, attention__sliding_window_pattern=[True, False] * 2)
    assert found["use_sliding_window"] is True and found["layer_types"] == [SLIDING, FULL] * 2
    assert "no sliding_window_pattern" in refusal("qwen3", attention__sliding_window=64)
    assert config("olmo2", attention__sliding_window=0)["model_type"] == "olmo2"
    assert "OLMo 3" in refusal("olmo2", attention__sliding_window=64)


def test_phi3_windows():
    assert config("phi3", attention__sliding_window=300)["sliding_window"] == 300
    assert config("phi3", attention__sliding_window=0)["sliding_window"] is None
    assert config("phi3")["sliding_window"] == 2047  # a 4k model from before the key was written
    assert config("phi3", context_length=16384)["sliding_window"] is None


def test_gemmas_scores_caps_and_bases():
    assert config("gemma2")["query_pre_attn_scalar"] == 16 and config("gemma2")["attn_logit_softcapping"] == 50
    deep = {"attention__key_length": 32, "attention__value_length": 32}
    assert config("gemma2", block_count=46, **deep)["query_pre_attn_scalar"] == 16
    assert config("gemma2", block_count=42, **deep)["query_pre_attn_scalar"] == 32
    assert config("gemma3", block_count=62, rope__freq_base=1e6, **deep)["query_pre_attn_scalar"] == 16
    assert config("gemma2", attention__scale=0.125)["query_pre_attn_scalar"] == 64
    found = config("gemma2", attn_logit_softcapping=20.0, final_logit_softcapping=10.0)
    assert (found["attn_logit_softcapping"], found["final_logit_softcapping"]) == (20.0, 10.0)
    scaled = {"rope__freq_base": 1e6, "rope__scaling__type": "linear", "rope__scaling__factor": 8.0}
    found = config("gemma3", attention__sliding_window=512, **scaled)["rope_parameters"]
    assert found[FULL] == {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}
    assert found[SLIDING] == {"rope_theta": 1e4, "rope_type": "default"}
    found = config("gemma3", rope__freq_base_swa=500.0, attention__sliding_window=512, **scaled)
    assert found["rope_parameters"][SLIDING]["rope_theta"] == 500.0
    assert "rope.freq_base is missing" in refusal("gemma3")
    assert config("gemma3", rope__freq_base=1e6)["final_logit_softcapping"] is None


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
@pytest.mark.parametrize("scale", [1e-200, 5e-324, 1e200, -1.0, -0.0625])
def test_a_gemmas_scale_of_scores_is_a_sensible_number_or_refused(architecture, scale):
    assert "attention.scale is " in refusal(architecture, attention__scale=scale, rope__freq_base=1e6)
    assert config(architecture, attention__scale=0.25, rope__freq_base=1e6)["query_pre_attn_scalar"] == 16


def test_granites_multipliers():
    found = config("granite", logit_scale=8.0)
    assert (found["attention_multiplier"], found["residual_multiplier"], found["embedding_multiplier"]) == (0.25, 1, 1)
    found = config("granite", logit_scale=8.0, attention__scale=0.5, residual_scale=0.2, embedding_scale=12.0)
    assert (found["attention_multiplier"], found["residual_multiplier"], found["embedding_multiplier"]) == (
        0.5,
        0.2,
        12,
    )
    assert found["logits_scaling"] == 8.0
    assert "logit_scale is missing" in refusal("granite")
    assert "rope.scaling.finetuned" in refusal("granite", logit_scale=8.0, rope__scaling__finetuned=False)
    assert "residual_scale" in refusal("llama", residual_scale=0.2)


def test_layers_without_positions():
    assert config("smollm3", block_count=9)["no_rope_layers"] == [1, 1, 1, 0, 1, 1, 1, 0, 1]


def test_gpt_oss():
    keys = {
        "expert_count": 4,
        "expert_used_count": 2,
        "expert_feed_forward_length": 64,
        "attention__sliding_window": 128,
    }
    yarn = {"type": "yarn", "factor": 32.0, "original_context_length": 4096}
    found = config("gpt-oss", **keys, **{f"rope__scaling__{key}": value for key, value in yarn.items()})
    assert found["layer_types"] == [SLIDING, FULL] * 2 and found["intermediate_size"] == 64
    assert found["rope_parameters"]["truncate"] is False and found["rope_parameters"]["factor"] == 32.0
    assert config("gpt-oss", **keys, expert_gating_func=3)["num_local_experts"] == 4
    assert "expert_gating_func" in refusal("gpt-oss", **keys, expert_gating_func=2)
    assert "sliding_window is missing" in refusal("gpt-oss", **(keys | {"attention__sliding_window": None}))


def test_only_models_are_served():
    for kind in ("adapter", "mmproj", "imatrix"):
        assert f"general.type is '{kind}'" in refusal("llama", general={"general.type": kind})
    assert "unknown architecture 'clip'" in refusal("clip")
    assert config("llama", general={"general.type": "model"})["model_type"] == "llama"


NAMES = sorted(
    value.removeprefix("{arch}.")
    for group in (gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Rope)
    for value in vars(group).values()
    if isinstance(value, str) and value.startswith("{arch}.")
)
VALUES = st.one_of(
    st.integers(-(2**63), 2**64),
    st.integers(0, 8),
    st.floats(width=32),
    st.booleans(),
    st.text(max_size=8),
    st.sampled_from(["none", "linear", "yarn", "longrope"]),
    st.lists(st.one_of(st.booleans(), st.integers(-1, 300)), max_size=5),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(LAYOUTS)), st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5), st.booleans())
def test_any_metadata_gives_a_spec_or_one_line(architecture, values, experts):
    given_keys = {"logit_scale": 1.0} if architecture == "granite" else {}
    given_keys |= {"rope.freq_base": 1e6} if architecture == "gemma3" else {}
    given_keys |= {"expert_count": 4, "expert_used_count": 2} if experts or "moe" in architecture else {}
    keys = {f"{architecture}.{key}": value for key, value in (PLAIN | given_keys | values).items()}
    source = Fields({"general.architecture": architecture} | keys, "m.gguf")
    try:
        fields = Fields(read_config(source, architecture, {"token_embd.weight": EMBED}), "m.gguf")
        spec = read_spec(fields, family_of(fields))
    except ModelFileError as error:
        assert "\n" not in str(error) and str(error).startswith("m.gguf")
        return
    assert 1 <= len(spec.layers) <= limits.MAX_LAYERS and spec.hidden >= 1
